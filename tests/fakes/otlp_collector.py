"""A collector of traces: takes OTLP over HTTP on a free port, and keeps what it gets.

`python -m tests.fakes.otlp_collector` prints it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


@dataclass(frozen=True)
class Span:
    """A span as it came; ids are hexadecimal."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    begin_ns: int
    end_ns: int
    attributes: dict[str, Any]
    error: str


@dataclass
class Collector:
    """What has come so far."""

    url: str
    spans: list[Span] = field(default_factory=list)

    def trace(self, trace_id: str) -> dict[str, Span]:
        """The spans of a trace, by service and name."""
        return {f"{span.service}: {span.name}": span for span in tuple(self.spans)
                if span.trace_id == trace_id}


@contextmanager
def running_collector() -> Iterator[Collector]:
    """A collector that listens until the end of the block."""
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["content-length"]))
            collector.spans += _spans(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.end_headers()
            self.wfile.write(ExportTraceServiceResponse().SerializeToString())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector = Collector(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()


def _spans(request: ExportTraceServiceRequest) -> Iterator[Span]:
    for resource in request.resource_spans:
        service = _attributes(resource.resource.attributes)["service.name"]
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Span(service, span.name, span.trace_id.hex(), span.span_id.hex(),
                           span.parent_span_id.hex(), span.start_time_unix_nano,
                           span.end_time_unix_nano, _attributes(span.attributes),
                           span.status.message)


def _print_traces(collector: Collector) -> None:
    """Each trace that has come, in milliseconds from its beginning."""
    spans, collector.spans = sorted(collector.spans, key=lambda span: span.begin_ns), []
    for trace_id in dict.fromkeys(span.trace_id for span in spans):
        print(f"trace {trace_id}")
        trace = [span for span in spans if span.trace_id == trace_id]
        for span in trace:
            begin_ms, end_ms = ((at_ns - trace[0].begin_ns) / 1e6
                                for at_ns in (span.begin_ns, span.end_ns))
            print(f"{begin_ms:9.1f} {end_ms:9.1f}  {span.service}: {span.name} {span.error}")


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, kind)


if __name__ == "__main__":
    with running_collector() as its_collector:
        print(f"OTEL_EXPORTER_OTLP_ENDPOINT={its_collector.url}", flush=True)
        while True:
            time.sleep(6)  # a process tells of its spans every five seconds
            _print_traces(its_collector)
