"""What `tritonlm top` makes of pages of metrics."""

from __future__ import annotations

import io
import socket
from pathlib import Path
from xml.etree import ElementTree

import pytest
from page_server import serve_page
from rich.console import Console
from tests.unit.observability.test_rules import ALERTS
from triton_service import serve
from typer.testing import CliRunner

from tritonlm.cli import app
from tritonlm.observability import state
from tritonlm.observability.page import Interval, Page
from tritonlm.observability.view import frame

EARLY = """
# HELP tritonlm_requests_total Requests
tritonlm_requests_total{front_end="a",model="generate",outcome="finished",reason="stop"} 100
tritonlm_requests_total{front_end="a",model="generate",outcome="failed",reason="internal"} 0
tritonlm_requests_total{front_end="a",model="generate",outcome="refused",reason="invalid_arg"} 0
tritonlm_requests_unfinished{front_end="a",model="generate"} 4
tritonlm_output_tokens_total{front_end="a",model="generate"} 1000
tritonlm_time_to_first_token_seconds_bucket{front_end="a",model="generate",le="1"} 100
tritonlm_time_to_first_token_seconds_bucket{front_end="a",model="generate",le="10"} 100
tritonlm_time_to_first_token_seconds_bucket{front_end="a",model="generate",le="+Inf"} 100
tritonlm_kv_blocks{engine="0",front_end="a",model="generate"} 50
tritonlm_kv_cache_usage_ratio{engine="0",front_end="a",model="generate"} 0.97
tritonlm_requests_waiting{engine="0",front_end="a",model="generate"} 2
tritonlm_requests_running{engine="0",front_end="a",model="generate"} 2
tritonlm_oldest_wait_seconds{engine="0",front_end="a",model="generate"} 31
tritonlm_step_requests_count{engine="0",front_end="a",model="generate"} 900
tritonlm_prefix_tokens_total{engine="0",front_end="a",model="generate"} 10
tritonlm_prefix_hit_tokens_total{engine="0",front_end="a",model="generate"} 0
tritonlm_engine_starts_total{engine="0",front_end="a",model="generate"} 1
tritonlm_engine_memory_bytes{engine="0",front_end="a",model="generate"} 1048576000
tritonlm_gpu_memory_bytes{engine="0",front_end="a",model="generate"} 1000
tritonlm_gpu_memory_used_bytes{engine="0",front_end="a",model="generate"} 990
tritonlm_gpu_usage_ratio{engine="0",front_end="a",model="generate"} 0.5
tritonlm_gateway_requests_total{path="/v1/completions",status="200"} 0
tritonlm_gateway_requests_total{path="/v1/completions",status="503"} 0
tritonlm_gateway_requests_total{path="/metrics",status="200"} 7
tritonlm_gateway_server_up{server="b:8001"} 0
"""
LATE = (EARLY.replace('reason="stop"} 100', 'reason="stop"} 110')
        .replace('reason="internal"} 0', 'reason="internal"} 5')
        .replace('reason="invalid_arg"} 0', 'reason="invalid_arg"} 5')
        .replace("} 1000\ntritonlm_time", "} 1400\ntritonlm_time")
        .replace('le="1"} 100', 'le="1"} 110').replace('le="10"} 100', 'le="10"} 120')
        .replace('le="+Inf"} 100', 'le="+Inf"} 120')
        .replace("tokens_total{engine=\"0\",front_end=\"a\",model=\"generate\"} 10",
                 "tokens_total{engine=\"0\",front_end=\"a\",model=\"generate\"} 30")
        .replace("hit_tokens_total{engine=\"0\",front_end=\"a\",model=\"generate\"} 0",
                 "hit_tokens_total{engine=\"0\",front_end=\"a\",model=\"generate\"} 15")
        .replace('status="200"} 0', 'status="200"} 8')
        .replace('status="503"} 0', 'status="503"} 2'))


@pytest.fixture
def interval():
    return Interval(Page.parse({"one": EARLY}, 100.0), Page.parse({"one": LATE}, 110.0))


def test_a_models_state_is_that_of_the_interval(interval):
    [model] = state.models(interval)
    assert (model.requests_per_s, model.output_tokens_per_s) == (2, 40)
    assert model.error_share == 0.25, "what is not allowed is no error of the server"
    assert model.first_token.p50_s == pytest.approx(1.0)
    assert model.first_token.p99_s == pytest.approx(1 + 9 * 0.98)
    assert model.num_unfinished == 4


def test_a_tasks_state_is_that_of_the_interval():
    def page(rows, batches, tokens, padding, at_s):
        return Page.parse({"one": "".join(
            f'tritonlm_task_{name}{{model="embed"}} {value}\n' for name, value in (
                ("rows_total", rows), ("batches_total", batches), ("tokens_total", tokens),
                ("padding_tokens_total", padding), ("memory_bytes", 2**30)))}, at_s)

    interval = Interval(page(10, 5, 100, 10, 0.0), page(70, 25, 400, 40, 10.0))
    assert state.tasks(interval) == [state.TaskState("embed", 6.0, 3.0, 30.0, 0.1, 2**30)]
    console = Console(width=200, file=io.StringIO())
    console.print(frame(interval, []))
    assert "embed 6.0 3.0 30 10 % 1,024 MiB" in " ".join(console.file.getvalue().split())


def test_an_engines_state_is_that_of_the_interval(interval):
    [engine] = state.engines(interval)
    assert (engine.num_running, engine.num_waiting, engine.kv_usage) == (2, 2, 0.97)
    assert engine.prefix_hits == 0.75
    assert (engine.gpu_usage, engine.gpu_memory) == (0.5, 0.99)


def test_only_paths_on_which_something_happened_are_told(interval):
    [path] = state.paths(interval)
    assert (path.path, path.requests_per_s, path.error_share) == ("/v1/completions", 1, 0.2)


def test_alerts_are_those_whose_limits_are_passed(interval):
    assert {name for name, _ in state.alerts(interval)} == {
        "TritonlmErrors", "TritonlmSlowFirstToken", "TritonlmQueueAge", "TritonlmKvCacheFull",
        "TritonlmGpuMemory", "TritonlmNoProgress", "TritonlmGatewayErrors",
        "TritonlmGatewayServerDown"}


def test_an_engine_that_is_gone_and_a_server_that_is_shunned_raise_alerts():
    """Nothing runs there, so that nothing else would show it."""
    def page(blocks, ejections):
        return Page.parse({"one": (
            f'tritonlm_kv_blocks{{engine="0",model="generate"}} {blocks}\n'
            f'tritonlm_gateway_server_ejections_total{{server="b:8001"}} {ejections}\n')}, 0.0)

    assert list(state.alerts(Interval(page(50, 1), page(0, 2)))) == [
        ("TritonlmEngineDown", "generate engine 0 of one"),
        ("TritonlmGatewayServerEjected", "b:8001")]
    assert list(state.alerts(Interval(page(50, 1), page(50, 1)))) == []


def test_all_alerts_but_those_of_hours_are_seen_at_once():
    source = Path(state.__file__).read_text()
    unseen = {alert["alert"] for alert in ALERTS if f'"{alert["alert"]}"' not in source}
    assert unseen == {"TritonlmPrefixHitsCollapsed"}


def test_a_quiet_server_raises_none():
    page = EARLY.replace("} 31", "} 0").replace("} 0.97", "} 0.5").replace("} 990", "} 500")
    page = page.replace('model="generate"} 2\n', 'model="generate"} 0\n').replace(
        'server="b:8001"} 0', 'server="b:8001"} 1')
    quiet = Page.parse({"one": page}, 100.0)
    assert list(state.alerts(Interval(quiet, quiet))) == []


def test_a_server_that_was_started_again_counts_from_zero():
    before, now = (Page.parse({"one": f'tritonlm_x_total{{a="1"}} {count}'}, float(at_s))
                   for at_s, count in enumerate((50, 3)))
    assert Interval(before, now).growth("tritonlm_x_total") == 3


def test_pages_of_several_servers_add_up():
    early = Page.parse({"one": EARLY, "two": EARLY}, 100.0)
    late = Page.parse({"one": LATE, "two": LATE, "three": LATE}, 110.0)
    interval = Interval(early, late)
    [model] = state.models(interval)
    assert model.output_tokens_per_s == 80, "the third was not seen before"
    assert len(state.engines(interval)) == 3


def test_limits_are_those_of_the_rules():
    expressions = {alert["alert"]: alert["expr"] for alert in ALERTS}
    for name, limit in state.LIMITS.items():
        assert f"> {limit:g}" in expressions[name], name
    assert {name for name, _ in state.alerts(Interval(
        Page.parse({"one": EARLY}, 0.0), Page.parse({"one": LATE}, 1.0)))} <= set(expressions)


def test_a_frame_shows_it_all(interval):
    out = io.StringIO()
    Console(file=out, width=160).print(frame(interval, ["gone:8002"]))
    text = out.getvalue()
    for part in ("generate 0 (one)", "25 %", "97 %", "75 %", "1,000 MiB", "9.8 s",
                 "gone:8002 does not answer", "TritonlmErrors: generate", "/v1/completions"):
        assert part in text, text


@pytest.fixture
def address():
    """That of a server which has one page after the other."""
    with serve_page(EARLY, LATE) as server:
        yield f"127.0.0.1:{server.server_port}"


def test_once_prints_one_frame(address):
    result = CliRunner().invoke(app, ["top", address, "--once", "--interval-s", "0.2"],
                                env={"COLUMNS": "80"})  # what there is no terminal for has room
    assert result.exit_code == 0, result.output
    assert "prompt tokens/s" in result.output
    assert f"generate 0 ({address})" in result.output
    assert "TritonlmErrors: generate" in result.output


def test_a_frame_may_be_a_picture(address, tmp_path):
    picture = tmp_path / "top.svg"
    result = CliRunner().invoke(app, ["top", address, "--once", "--interval-s", "0.2",
                                      "--svg", str(picture)])
    assert result.exit_code == 0, result.output
    texts = {text.replace("\xa0", " ").strip()
             for text in ElementTree.parse(picture).getroot().itertext()}
    assert texts >= {f"tritonlm top {address}", "TritonlmErrors: generate"}


def test_servers_behind_a_name_come_and_go(address, monkeypatch):
    port = address.rpartition(":")[2]
    found = iter((["127.0.0.9", "127.0.0.1"], ["127.0.0.1"]))
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **more: (
        [(None, None, None, "", (each, int(port))) for each in next(found)]
        if host == "triton" else real(host, *rest, **more)))
    result = CliRunner().invoke(app, ["top", f"dns:triton:{port}", "--once",
                                      "--interval-s", "0.2"])
    assert result.exit_code == 0, result.output
    assert f"generate 0 ({address})" in result.output
    assert "127.0.0.9" not in result.output


def test_a_name_that_nobody_has_is_no_server():
    result = CliRunner().invoke(app, ["top", "dns:nobody.invalid:8002", "--once"])
    assert result.exit_code == 1
    assert result.stderr.startswith("tritonlm: no metrics at http://nobody.invalid:8002/metrics")


def test_a_picture_is_of_one_frame(tmp_path):
    result = CliRunner().invoke(app, ["top", "--svg", str(tmp_path / "top.svg")])
    assert result.exit_code == 1
    assert "it needs --once" in result.stderr


def test_without_a_server_the_error_says_what_to_give():
    result = CliRunner().invoke(app, ["top", "127.0.0.1:9", "--once"])
    assert result.exit_code == 1
    assert result.stderr.startswith("tritonlm: no metrics at http://127.0.0.1:9/metrics; give ")


def test_a_port_that_speaks_no_http_has_no_metrics():
    with serve(lambda *_: iter(())) as triton:
        result = CliRunner().invoke(app, ["top", triton.url, "--once"])
    assert (result.exit_code, result.stderr.partition("; ")[0]) == (
        1, f"tritonlm: no metrics at http://{triton.url}/metrics")
