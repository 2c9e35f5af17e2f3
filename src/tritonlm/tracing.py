"""Traces of requests: on where OpenTelemetry's own variable says where they are sent to.

The context of a trace comes as W3C has it: to the gateway in the header `traceparent`, to a server
in the request parameter of that name, since its Python models see no metadata of gRPC.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from tritonlm.errors import InvalidArgument

TRACEPARENT = "traceparent"
FORM = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
PROTOCOL = "http/protobuf"
OFF = {"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "none"}
"""What OpenTelemetry's variables say where nothing is to be traced, endpoint or not."""


class Stage(NamedTuple):
    """A part of a request's time; times here are of the monotonic clock."""

    name: str
    begin_s: float
    end_s: float


class LiveSpan(Protocol):
    """A span that has begun."""

    traceparent: str
    """The context for what is done within it."""

    def end(self, attributes: Mapping[str, Any], error: str) -> None:
        """It is over; it has failed if `error` says why."""


class Tracer(Protocol):
    """Sends spans to a collector, in the background."""

    def begin(self, name: str, parent: str) -> LiveSpan:
        """A span that begins now, within the span of the traceparent `parent` if that is any."""

    def record(
        self, whole: Stage, parent: str, stages: Sequence[Stage], attributes: Mapping[str, Any],
        error: str,
    ) -> None:
        """A span that is over, and its parts."""

    def close(self) -> None:
        """Send what has not been sent yet."""


def from_environment(service: str) -> Tracer | None:
    """The tracer of a process, called `service` there; None if no collector is named, or it is off.

    Raises `InvalidArgument` for what cannot be done.
    """
    endpoint = next(filter(None, map(os.environ.get, ENDPOINTS)), None)
    is_off = any(os.environ.get(name, "").lower() == word for name, word in OFF.items())
    if endpoint is None or is_off:
        return None
    for name in PROTOCOLS:
        if os.environ.get(name, PROTOCOL) != PROTOCOL:
            raise InvalidArgument(name, os.environ[name], f"allowed: {PROTOCOL}")
    try:
        from tritonlm.otlp import OtlpTracer  # noqa: PLC0415 - half a second, for those who trace
    except ModuleNotFoundError as error:
        raise InvalidArgument(ENDPOINTS[0], endpoint, f"traces need {error.name}: "
                              "pip install -c constraints.txt -e '.[tracing]'") from None
    return OtlpTracer(service)


def is_traceparent(text: Any) -> bool:
    """Whether `text` is a context in the form of W3C."""
    return isinstance(text, str) and FORM.fullmatch(text) is not None
