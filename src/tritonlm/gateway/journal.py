"""What log, metrics and traces get of every request to the gateway."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from tritonlm.gateway import metrics
from tritonlm.gateway.failures import CLIENT_GONE_STATUS
from tritonlm.gateway.keys import ApiKey
from tritonlm.gateway.upstream import Upstream
from tritonlm.gateway.usage import Usage
from tritonlm.logs import json_line
from tritonlm.tracing import Tracer

LOG = logging.getLogger("tritonlm.access")
TRACED = frozenset({"POST", "WEBSOCKET", "GENERATE"})
UNCOUNTED = frozenset({"/health/live", "/health/ready", "/metrics"})
"""Paths of those who watch: what metrics say is about requests."""


@dataclass
class Record:
    """One request, until it is over."""

    request_id: str
    method: str
    """That of HTTP; `WEBSOCKET`, and `GENERATE` for a request on one."""
    path: str
    upstream: Upstream
    start_s: float = field(default_factory=time.monotonic)
    status: int = CLIENT_GONE_STATUS
    has_begun: bool = False
    """Whether the head of the answer has gone out."""
    first_byte_s: float | None = None
    model: str = ""
    usage: Usage = field(default_factory=Usage)
    key: ApiKey | None = None

    def note_first_byte(self) -> None:
        """Something of the answer goes out; only the first time counts."""
        if self.first_byte_s is None:
            self.first_byte_s = time.monotonic() - self.start_s


@dataclass(frozen=True)
class Journal:
    """Where requests are told of; all of a worker have one."""

    is_logged: bool
    tracer: Tracer | None

    def begin(self, request_id: str, method: str, path: str, traceparent: str) -> Record:
        """A request has come, within the trace of `traceparent` if that is any."""
        upstream = Upstream(traceparent)
        if self.tracer is not None and method in TRACED:
            upstream.span = self.tracer.begin(f"{method} {path}", traceparent)
            upstream.traceparent = upstream.span.traceparent
        metrics.IN_FLIGHT.inc(path not in UNCOUNTED)
        return Record(request_id, method, path, upstream)

    def end(self, record: Record, label: str) -> None:
        """It is over; metrics know its path as `label`."""
        total_s = time.monotonic() - record.start_s
        if record.path not in UNCOUNTED:
            _count(record, label, total_s)
        if self.is_logged:
            LOG.info(_log_line(record, total_s))
        if record.upstream.span is not None:
            record.upstream.span.end(_attributes(record), (
                f"{record.status}" if record.status >= HTTPStatus.INTERNAL_SERVER_ERROR else ""))


def _count(record: Record, label: str, total_s: float) -> None:
    metrics.IN_FLIGHT.dec()
    metrics.begin_path(label)
    metrics.REQUESTS.labels(label, str(int(record.status))).inc()
    metrics.REQUEST_S.labels(label).observe(total_s)
    if record.first_byte_s is not None:
        metrics.FIRST_BYTE_S.labels(label).observe(record.first_byte_s)
    if record.usage.num_input_tokens:  # a server has answered, so it has a model of that name
        metrics.INPUT_TOKENS.labels(record.model).inc(record.usage.num_input_tokens)
        metrics.OUTPUT_TOKENS.labels(record.model).inc(record.usage.num_output_tokens)


def _log_line(record: Record, total_s: float) -> str:
    return json_line(
        "gateway", "request", request_id=record.request_id, method=record.method,
        path=record.path, status=record.status, seconds=round(total_s, 4),
        first_byte_seconds=record.first_byte_s and round(record.first_byte_s, 4),
        key=record.key.name if record.key else None, model=record.model or None,
        input_tokens=record.usage.num_input_tokens, output_tokens=record.usage.num_output_tokens,
        server_request_ids=list(record.upstream.request_ids))


def _attributes(record: Record) -> dict[str, Any]:
    """What a span tells, under OpenTelemetry's names."""
    return {
        "http.request.method": "GET" if record.method == "WEBSOCKET" else record.method,
        "url.path": record.path, "http.response.status_code": int(record.status),
        "gen_ai.request.model": record.model or None,
        "gen_ai.usage.input_tokens": record.usage.num_input_tokens,
        "gen_ai.usage.output_tokens": record.usage.num_output_tokens,
        "tritonlm.request_id": record.request_id,
        "tritonlm.first_byte_seconds": record.first_byte_s,
    }
