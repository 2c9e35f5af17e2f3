"""Spans by OpenTelemetry's SDK, which is configured by its own variables: OTEL_*."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tritonlm.tracing import TRACEPARENT, Stage

CLOSE_TIMEOUT_S = 2.0
PROPAGATOR = TraceContextTextMapPropagator()


class OtlpTracer:
    """As `tracing.Tracer` says."""

    def __init__(self, service: str) -> None:
        """`service` is what OTEL_SERVICE_NAME says, if it says anything."""
        name = os.environ.get("OTEL_SERVICE_NAME") or service
        self._provider = TracerProvider(resource=Resource.create({SERVICE_NAME: name}),
                                        shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("tritonlm")

    def begin(self, name: str, parent: str) -> OtlpSpan:
        """As `tracing.Tracer` says."""
        return OtlpSpan(self._tracer.start_span(name, _context(parent), SpanKind.SERVER))

    def record(
        self, whole: Stage, parent: str, stages: Sequence[Stage], attributes: Mapping[str, Any],
        error: str,
    ) -> None:
        """As `tracing.Tracer` says."""
        offset_s = time.time() - time.monotonic()

        def epoch_ns(monotonic_s: float) -> int:
            return int(1e9 * (offset_s + monotonic_s))

        span = self._tracer.start_span(whole.name, _context(parent), SpanKind.SERVER,
                                       start_time=epoch_ns(whole.begin_s))
        inside = set_span_in_context(span)
        for stage in stages:
            part = self._tracer.start_span(stage.name, inside, start_time=epoch_ns(stage.begin_s))
            part.end(epoch_ns(stage.end_s))
        _finish(span, attributes, error, epoch_ns(whole.end_s))

    def close(self) -> None:
        """As `tracing.Tracer` says; a collector that does not answer is not waited for."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(CLOSE_TIMEOUT_S)


class OtlpSpan:
    """As `tracing.LiveSpan` says."""

    def __init__(self, span: Span) -> None:
        self._span = span
        carrier: dict[str, str] = {}
        PROPAGATOR.inject(carrier, set_span_in_context(span))
        self.traceparent = carrier[TRACEPARENT]

    def end(self, attributes: Mapping[str, Any], error: str) -> None:
        """As `tracing.LiveSpan` says."""
        _finish(self._span, attributes, error)


def _context(parent: str) -> Context:
    return PROPAGATOR.extract({TRACEPARENT: parent} if parent else {}, Context())


def _finish(
    span: Span, attributes: Mapping[str, Any], error: str, end_ns: int | None = None
) -> None:
    span.set_attributes({name: value for name, value in attributes.items() if value is not None})
    if error:  # half a character in it would lose the spans of others, sent together with this one
        text = error.encode(errors="replace").decode()
        span.set_status(Status(StatusCode.ERROR, text))
    span.end(end_ns)
