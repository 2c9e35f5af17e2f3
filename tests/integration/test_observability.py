"""What an operator sees of a real run: in Prometheus, in a trace, in the log."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from unittest import mock

import pytest
import tritonclient.grpc.aio as grpcclient
import yaml
from inference import responses, stream
from json_log import lines_about, logged_by
from k8s.render import K8S
from tests.drills.waiting import found
from tests.exported_metrics import exported_names
from tests.fakes.echo_server import echo_server
from tests.fakes.otlp_collector import running_collector
from tests.integration.gateway import address_of, post, running_gateway
from tests.running_prometheus import running_prometheus
from tests.task_checkpoints import save_classifier, save_cross_encoder, save_embedder
from typer.testing import CliRunner

from tritonlm.cli import app
from tritonlm.logs import JSON_START, PREFIX
from tritonlm.observability.dashboards import DASHBOARDS, as_json
from tritonlm.server.settings import ServerSettings

pytestmark = pytest.mark.timeout(300)  # the first waits for servers, a gateway and Prometheus
TRACE_ID, CLIENT_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
NUM_TOKENS, STEP_MS = 40, 3
IS_ABSENT = re.compile(r"_gpu_|_cache_(?:requests|lookups|errors)_")
"""What nothing here has: a GPU, answers that are kept."""
ADAPTER = K8S / "components" / "autoscaling" / "prometheus-adapter.yaml"


@pytest.fixture(scope="module")
def collector():
    with running_collector() as collector:
        tracing = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
        with mock.patch.dict(os.environ, tracing):
            yield collector


@pytest.fixture(scope="module")
def server(collector, tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    settings = ServerSettings(http_port=0, grpc_port=0, metrics_port=0, exit_timeout_s=1,
                              front_ends=1, log_file=folder / "log",
                              embed_model=str(save_embedder(folder / "embed")),
                              rerank_model=str(save_cross_encoder(folder / "rerank")),
                              classify_model=str(save_classifier(folder / "classify")))
    with echo_server(settings, STEP_MS, log_format="json", request_log=True) as server:
        yield server


@pytest.fixture(scope="module")
def gateway_log(tmp_path_factory):
    return tmp_path_factory.mktemp("gateway") / "log"


@pytest.fixture(scope="module")
def gateway(server, gateway_log):
    with (gateway_log.open("w") as log,
          running_gateway(address_of(server), "--workers", "2", "--log-format", "json",
                          log=log) as url):
        yield url


@pytest.fixture(scope="module")
def prometheus(server, gateway, tmp_path_factory):
    """With a load of every kind between its looks at the pages."""
    if shutil.which("prometheus") is None:
        pytest.skip("needs prometheus: apt-get install prometheus")
    pages = [server.metrics_url, f"{gateway}/metrics"]
    with running_prometheus(tmp_path_factory.mktemp("prometheus"), pages) as prometheus:
        body = {"model": "generate", "prompt": "To be or not to be", "max_tokens": NUM_TOKENS}
        post(f"{gateway}/v1/completions", body)  # from here on its paths have a page
        prometheus.wait_for('tritonlm_gateway_requests_total{path="/v1/completions"} > 0')
        with ThreadPoolExecutor(8) as clients:
            done = list(clients.map(partial(post, f"{gateway}/v1/completions"), [body] * 24))
        assert [status for status, _ in done] == [200] * 24
        assert post(f"{gateway}/v1/completions", body | {"temperature": -1})[0] == 400
        prometheus.wait_for("model:tritonlm_output_tokens:rate5m > 0")
        yield prometheus


def test_every_rule_is_evaluated_without_an_error(prometheus):
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert {rule["type"] for rule in rules} == {"recording", "alerting"}
    assert {rule["name"]: rule.get("lastError") for rule in rules if rule["health"] != "ok"} == {}


def test_every_recording_rule_gives_values(prometheus):
    recorded = [rule["name"] for group in prometheus.get("rules")["groups"]
                for rule in group["rules"] if rule["type"] == "recording"]
    assert len(recorded) > 10
    for name in recorded:
        prometheus.wait_for(name)
    [errors] = prometheus.wait_for('model:tritonlm_request_errors:ratio_rate5m{model="generate"}')
    assert float(errors["value"][1]) == 0


def test_nothing_fires_on_a_healthy_server(prometheus):
    assert prometheus.values('ALERTS{alertstate="firing"}') == []


def test_prometheus_knows_the_metrics_that_the_code_names(prometheus):
    asked = {name for name in exported_names() if not IS_ABSENT.search(name)}
    found(lambda: asked - set(prometheus.get("label/__name__/values")), lambda unknown: not unknown)


def test_autoscalers_get_a_value_for_each_server(prometheus):
    rules = yaml.safe_load(ADAPTER.read_text())["rules"]["custom"]
    assert len(rules) == 2
    for rule in rules:
        series, matchers = rule["seriesQuery"].rstrip("}").split("{")
        assert matchers == 'namespace!="",pod!=""'  # labels of a cluster's Prometheus
        query = rule["metricsQuery"]
        for mark, value in (("Series", series), ("LabelMatchers", 'job="tritonlm"'),
                            ("GroupBy", "instance")):
            query = query.replace(f"<<.{mark}>>", value)
        assert len(prometheus.wait_for(query)) == 1, "the server, and not the gateway"


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_panel_has_data(prometheus, name):
    choices = {"$__rate_interval": "5m", "$namespace": ".*", "$model": ".*", "$path": ".*"}
    for panel in json.loads(as_json(name, DASHBOARDS[name]))["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"]
            for variable, value in choices.items():
                expression = expression.replace(variable, value)
            if IS_ABSENT.search(expression):
                assert prometheus.values(expression) == []
            else:
                prometheus.wait_for(expression)


def traced(trace_id):
    """Header, or parameter, of a request of that trace."""
    return {"traceparent": f"00-{trace_id}-{CLIENT_SPAN}-01"}


@pytest.fixture(scope="module")
def trace(collector, gateway):
    """The spans of a streamed request whose client has a trace of its own."""
    body = {"text_input": "To be or not to be", "max_tokens": NUM_TOKENS}
    request = urllib.request.Request(f"{gateway}/generate_stream", json.dumps(body).encode(),
                                     traced(TRACE_ID))
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.read().count(b"data: ") > 1
    return found(lambda: collector.trace(TRACE_ID), {
        "tritonlm-gateway: POST /generate_stream", "tritonlm: generate"}.issubset)


def test_a_trace_goes_from_the_gateway_through_triton_to_the_engine(trace):
    outer, inner = trace["tritonlm-gateway: POST /generate_stream"], trace["tritonlm: generate"]
    stages = [trace[f"tritonlm: {name}"] for name in ("queue", "prefill", "decode", "send")]
    assert len(trace) == 2 + len(stages)
    assert (outer.parent_id, inner.parent_id) == (CLIENT_SPAN, outer.span_id)
    assert {stage.parent_id for stage in stages} == {inner.span_id}
    assert (outer.attributes["http.response.status_code"], outer.error) == (200, "")
    assert inner.attributes["gen_ai.usage.output_tokens"] == NUM_TOKENS
    assert inner.attributes["gen_ai.response.finish_reasons"] == ["length"]


def test_the_times_of_a_trace_fit_together(trace):
    inner, queue, prefill, decode, send = (
        trace[f"tritonlm: {name}"] for name in ("generate", "queue", "prefill", "decode", "send"))
    assert inner.begin_ns == queue.begin_ns
    assert queue.end_ns == prefill.begin_ns
    assert prefill.end_ns == decode.begin_ns <= send.begin_ns
    assert decode.end_ns - decode.begin_ns >= (NUM_TOKENS - 1) * STEP_MS * 1_000_000 / 2
    assert send.end_ns == inner.end_ns >= decode.end_ns


@pytest.mark.parametrize(("model", "step"), [
    ("complete", "complete"), ("text_generation", "generate")])
def test_a_trace_goes_through_every_model_that_generates(collector, server, model, step):
    trace_id = os.urandom(16).hex()
    body = {"text_input": "To be", "max_tokens": 3}
    asyncio.run(ask(server, body, traced(trace_id), model))
    spans = found(lambda: collector.trace(trace_id), lambda spans: f"tritonlm: {step}" in spans)
    assert spans[f"tritonlm: {step}"].parent_id == CLIENT_SPAN


@pytest.mark.parametrize(("path", "body"), [
    ("/v1/embeddings", {"model": "embed", "input": "the cat"}),
    ("/v1/rerank", {"model": "rerank", "query": "a cat", "documents": ["a dog"]}),
    ("/v1/classify", {"model": "classify", "input": "the cat"}),
])
def test_a_trace_goes_from_the_gateway_to_the_model_of_a_task(collector, gateway, path, body):
    trace_id = os.urandom(16).hex()
    assert post(gateway + path, body, traced(trace_id))[0] == 200
    outer, inner = f"tritonlm-gateway: POST {path}", f"tritonlm: {body['model']}"
    spans = found(lambda: collector.trace(trace_id), {outer, inner}.issubset)
    assert spans[inner].parent_id == spans[outer].span_id
    assert spans[inner].attributes["gen_ai.usage.input_tokens"] > 0


def test_an_error_is_told_in_its_span(collector, server):
    body = {"text_input": "To be", "temperature": -1.0}
    assert asyncio.run(ask(server, body, traced("1" * 32))).error
    [span] = found(lambda: list(collector.trace("1" * 32).values()), len)
    assert (span.name, span.parent_id) == ("generate", CLIENT_SPAN)
    assert span.error.startswith("temperature: -1.0 is not allowed")


def test_a_context_of_another_form_is_refused(server):
    answer = asyncio.run(ask(server, {"text_input": "To be"}, {"traceparent": "nonsense"}))
    assert "traceparent: 'nonsense' is not allowed" in answer.error


async def ask(server, body, parameters, model="generate"):
    async with grpcclient.InferenceServerClient(server.grpc_url) as client:
        return await stream(client, model, body, parameters=parameters)


def test_front_end_and_engine_log_a_request_by_its_id(trace, server):
    request_id = trace["tritonlm: generate"].attributes["gen_ai.response.id"]
    queued, ended = found(
        lambda: lines_about(server.log_path, request_id), lambda lines: len(lines) == 2)
    assert (queued["process"], queued["message"]) == ("engine 0", "request queued")
    assert (ended["process"], ended["level"]) == ("generate_0_0", "info")
    assert (ended["outcome"], ended["reason"]) == ("finished", "length")
    assert ended["output_tokens"] == NUM_TOKENS


@pytest.mark.parametrize(("path", "body", "processes"), [
    ("/v1/completions", {"model": "generate", "prompt": "To be", "max_tokens": 2},
     {"engine 0", "generate"}),
    ("/tokenize", {"model": "generate", "prompt": "To be"}, {"tokenize"}),
    ("/v1/embeddings", {"model": "embed", "input": "the cat"}, {"embed"}),
    ("/v1/rerank", {"model": "rerank", "query": "the", "documents": ["cat"]}, {"rerank"}),
    ("/v1/classify", {"model": "classify", "input": "the cat"}, {"classify"}),
])
def test_whatever_works_on_a_request_to_the_gateway_logs_it_by_its_id(
    server, gateway, gateway_log, path, body, processes
):
    assert post(gateway + path, body, {"x-request-id": f"to-{path}"})[0] == 200
    [told] = found(lambda: lines_about(gateway_log, f"to-{path}"), len)
    assert (told["process"], told["status"]) == ("gateway", 200)
    [request_id] = told["server_request_ids"]
    assert logged_by(server, request_id, len(processes)) == processes


@pytest.mark.parametrize(("model", "texts", "processes"), [
    ("text_generation", {"text_input": "To be"}, {"tokenize", "engine 0", "generate"}),
    ("embedding", {"text_input": "the cat"}, {"embed_tokenize", "embed"}),
    ("reranking", {"query": "the", "document": "cat"}, {"rerank_tokenize", "rerank"}),
])
def test_every_step_of_an_ensemble_is_in_log_and_trace(collector, server, model, texts, processes):
    trace_id = os.urandom(16).hex()

    async def send():
        async with grpcclient.InferenceServerClient(server.grpc_url) as client:
            async for _, error in responses(client, model, texts, traced(trace_id), (),
                                            request_id=model):
                assert error is None

    asyncio.run(send())
    assert logged_by(server, model, len(processes)) == processes
    names = {f"tritonlm: {process}" for process in processes - {"engine 0"}}
    spans = found(lambda: collector.trace(trace_id), names.issubset)
    assert {spans[name].parent_id for name in names} == {CLIENT_SPAN}


def test_all_our_lines_of_log_are_json(server, gateway, gateway_log):
    assert not [line for line in server.log_path.read_text().splitlines()
                if line.startswith(PREFIX)]
    assert all(line.startswith(JSON_START) for line in gateway_log.read_text().splitlines())


def test_health_asks_each_model_for_the_least_that_it_does(server):
    result = CliRunner().invoke(app, ["health", "--url", server.grpc_url])
    assert result.exit_code == 0, result.output
    assert dict(re.findall(r"answer of (\w+): (.*) in ", result.output)) == {
        "generate": "one token", "embed": "an answer", "rerank": "an answer",
        "classify": "an answer"}


def test_diagnose_finds_that_steps_take_the_time(server):
    result = CliRunner().invoke(app, [
        "diagnose", "--url", server.grpc_url, "--metrics", server.metrics_url,
        "--requests", "8", "--max-tokens", str(NUM_TOKENS), "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["errors"] == []
    assert {one["owner"] for one in told["memory"]} >= {"engine 0 of generate", "embed"}
    decode_ms = next(one["p50_ms"] for one in told["stages"] if one["name"] == "decode")
    assert decode_ms >= (NUM_TOKENS - 1) * STEP_MS / 2
