"""Spans go to a collector in OpenTelemetry's own form, and nothing is done without one."""

from __future__ import annotations

import sys
import time

import pytest
from tests.fakes.otlp_collector import running_collector

from tritonlm import tracing
from tritonlm.errors import InvalidArgument
from tritonlm.tracing import Stage

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE_ID, PARENT_ID = PARENT.split("-")[1:3]


@pytest.fixture
def collector(monkeypatch):
    with running_collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        yield collector


def test_without_an_endpoint_there_is_no_tracer(monkeypatch):
    monkeypatch.delitem(sys.modules, "tritonlm.otlp", raising=False)
    for name in tracing.ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    assert tracing.from_environment("it") is None
    assert "tritonlm.otlp" not in sys.modules


@pytest.mark.parametrize(("name", "value"), [
    ("OTEL_SDK_DISABLED", "true"), ("OTEL_SDK_DISABLED", "True"), ("OTEL_TRACES_EXPORTER", "none")])
def test_opentelemetrys_own_switches_turn_traces_off(monkeypatch, name, value):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv(name, value)
    assert tracing.from_environment("it") is None


def test_an_empty_name_of_the_service_is_none(collector, monkeypatch):
    monkeypatch.setenv("OTEL_SERVICE_NAME", "")
    tracer = tracing.from_environment("it")
    tracer.begin("POST /", PARENT).end({}, "")
    tracer.close()
    assert set(collector.trace(TRACE_ID)) == {"it: POST /"}


def test_a_client_whose_trace_is_not_sampled_is_not_traced(collector):
    tracer = tracing.from_environment("it")
    outer = tracer.begin("POST /", PARENT.removesuffix("01") + "00")
    assert outer.traceparent.startswith(f"00-{TRACE_ID}-")
    assert outer.traceparent.endswith("-00")
    tracer.record(Stage("inner", 0, 1), outer.traceparent, [Stage("queue", 0, 1)], {}, "")
    outer.end({}, "")
    tracer.close()
    assert collector.trace(TRACE_ID) == {}


def test_a_request_is_a_span_with_its_stages_inside(collector):
    tracer = tracing.from_environment("it")
    now_s, now_ns = time.monotonic(), time.time_ns()
    tracer.record(Stage("generate", now_s - 3, now_s), PARENT,
                  [Stage("queue", now_s - 3, now_s - 2), Stage("decode", now_s - 2, now_s)],
                  {"tokens": 5, "nothing": None}, "")
    tracer.close()
    spans = collector.trace(TRACE_ID)
    assert set(spans) == {"it: generate", "it: queue", "it: decode"}
    whole = spans["it: generate"]
    assert (whole.parent_id, whole.attributes, whole.error) == (PARENT_ID, {"tokens": 5}, "")
    assert spans["it: queue"].parent_id == spans["it: decode"].parent_id == whole.span_id
    assert whole.end_ns - whole.begin_ns == pytest.approx(3e9, rel=1e-6)
    assert abs(whole.end_ns - now_ns) < 10e9
    assert whole.begin_ns == pytest.approx(spans["it: queue"].begin_ns, abs=1e6)


def test_half_a_character_in_an_error_loses_no_span(collector):
    tracer = tracing.from_environment("it")
    for error in ("", "half \ud800"):
        tracer.record(Stage(f"failed {bool(error)}", 0, 1), PARENT, [], {}, error)
    tracer.close()
    assert [span.error for span in collector.trace(TRACE_ID).values()] == ["", "half ?"]


def test_what_is_done_within_a_span_names_it(collector):
    tracer = tracing.from_environment("it")
    outer = tracer.begin("POST /", "")
    assert tracing.is_traceparent(outer.traceparent)
    now_s = time.monotonic()
    tracer.record(Stage("inner", now_s, now_s), outer.traceparent, [], {}, "it was lost")
    outer.end({"status": 503}, "503")
    tracer.close()
    [trace_id] = {span.trace_id for span in collector.spans}
    spans = collector.trace(trace_id)
    assert spans["it: inner"].parent_id == spans["it: POST /"].span_id
    assert (spans["it: inner"].error, spans["it: POST /"].error) == ("it was lost", "503")


def test_a_collector_that_is_not_there_holds_nobody_up(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    tracer = tracing.from_environment("it")
    tracer.begin("POST /", "").end({}, "")
    began_s = time.monotonic()
    tracer.close()
    assert time.monotonic() - began_s < 30


def test_another_protocol_is_refused(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(InvalidArgument, match="OTEL_EXPORTER_OTLP_PROTOCOL: 'grpc'"):
        tracing.from_environment("it")


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delitem(sys.modules, "tritonlm.otlp", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.context", None)
    with pytest.raises(InvalidArgument, match=r"pip install .* '\.\[tracing\]'"):
        tracing.from_environment("it")


@pytest.mark.parametrize(("text", "is_one"), [
    (PARENT, True), (PARENT.upper(), False), ("", False), (5, False),
    ("00-" + "0" * 32 + "-b7ad6b7169203331-01", False), (PARENT + "-01", False),
    ("00-0af7651916cd43dd8448eb211c80319c-" + "0" * 16 + "-01", False),
])
def test_a_context_has_the_form_of_w3c(text, is_one):
    assert tracing.is_traceparent(text) is is_one
