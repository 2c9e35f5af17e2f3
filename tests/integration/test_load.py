"""`tritonlm bench` and the load tests against a real server and gateway."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.fakes.echo_server import echo_server
from tests.integration.conftest import FOR_TESTS
from tests.integration.gateway import address_of, running_gateway
from typer.testing import CliRunner

from tritonlm.cli import app
from tritonlm.config import DEMO_CHECKPOINT
from tritonlm.server.settings import ServerSettings

ROOT = Path(__file__).parents[2]
STEP_MS = 3
NUM_PROMPTS, INPUT_LEN, OUTPUT_LEN = 12, 20, 25
PORTS = {name: FOR_TESTS[name] for name in ("http_port", "grpc_port", "metrics_port",
                                            "exit_timeout_s")}


@pytest.fixture(scope="module")
def server():
    settings = ServerSettings(**PORTS, embed_model=str(DEMO_CHECKPOINT))
    with echo_server(settings, STEP_MS, max_num_seqs=64) as server:
        yield server


@pytest.fixture(scope="module")
def gateway(server):
    with running_gateway(address_of(server), "--no-access-log") as url:
        yield url


@pytest.fixture(scope="module")
def addresses(server, gateway):
    over_http = gateway.removeprefix("http://")
    return {"grpc": server.grpc_url, "triton-sse": server.http_url.removeprefix("http://"),
            "sse": over_http, "openai": over_http, "openai-chat": over_http}


def bench(tmp_path, *options):
    """Exit code, and the result as JSON."""
    path = tmp_path / "result.json"
    ran = CliRunner().invoke(app, [
        "bench", "--json", str(path), "--ignore-eos", "--num-prompts", str(NUM_PROMPTS),
        "--input-len", str(INPUT_LEN), "--output-len", str(OUTPUT_LEN), *options])
    return ran, json.loads(path.read_text())["result"] if path.exists() else None


@pytest.mark.parametrize("backend", ["grpc", "triton-sse", "sse", "openai", "openai-chat"])
def test_bench_counts_every_token_of_every_backend(addresses, tmp_path, backend):
    ran, result = bench(tmp_path, "--backend", backend, "--url", addresses[backend],
                        "--max-concurrency", "6", "--processes", "2", "--num-warmups", "2")
    assert ran.exit_code == 0, ran.output
    assert (result["num_requests"], result["num_failed"]) == (NUM_PROMPTS, 0)
    assert result["num_input_tokens"] == NUM_PROMPTS * INPUT_LEN
    assert result["num_output_tokens"] == NUM_PROMPTS * OUTPUT_LEN
    assert NUM_PROMPTS < result["num_chunks"] <= NUM_PROMPTS * OUTPUT_LEN
    for name in ("ttft_ms", "itl_ms"):
        assert result[name]["mean"] <= result["e2e_ms"]["mean"]
    assert result["e2e_ms"]["median"] > (OUTPUT_LEN - 1) * STEP_MS, "faster than the engine"
    tpot_ms = (result["e2e_ms"]["mean"] - result["ttft_ms"]["mean"]) / (OUTPUT_LEN - 1)
    assert result["tpot_ms"]["mean"] == pytest.approx(tpot_ms)


def test_bench_asks_the_ensemble_at_a_rate_and_counts_goodput(addresses, tmp_path):
    ran, result = bench(tmp_path, "--url", addresses["grpc"], "--model", "text_generation",
                        "--request-rate", "20", "--goodput", "ttft:60000 e2e:0.001")
    assert ran.exit_code == 0, ran.output
    assert result["num_input_tokens"] == NUM_PROMPTS * INPUT_LEN
    assert result["good_requests_per_s"] == 0
    assert result["duration_s"] > NUM_PROMPTS / 20 / 2, "requests are sent at the rate"
    assert "goodput" in ran.stdout


def test_bench_reads_prompts_from_a_file(addresses, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "To be, or not to be", "max_tokens": 4}\n{"prompt": "ROMEO:"}\n')
    ran, result = bench(tmp_path, "--url", addresses["openai"], "--backend", "openai",
                        "--prompts", str(prompts))
    assert ran.exit_code == 0, ran.output
    assert result["num_output_tokens"] == NUM_PROMPTS / 2 * (4 + OUTPUT_LEN)


def test_failed_requests_are_counted_and_told(addresses, tmp_path):
    ran, result = bench(tmp_path, "--url", addresses["openai"], "--backend", "openai",
                        "--num-warmups", "0", "--model", "absent")
    assert ran.exit_code == 1
    assert result["num_failed"] == NUM_PROMPTS
    assert "absent" in ran.stderr


def load_test(server, gateway, *options):
    """A run of Locust."""
    return subprocess.run(
        [sys.executable, "-m", "locust", "-f", "loadtests/locustfile.py", "--headless",
         "--only-summary", "--stop-timeout", "20", "--host", gateway, "--grpc-url",
         server.grpc_url, "--http-url", server.http_url.removeprefix("http://"), *options],
        cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)


def test_a_load_test_that_keeps_its_objectives_ends_with_0(server, gateway, tmp_path):
    report, slo = tmp_path / "report.html", tmp_path / "slo.yaml"
    slo.write_text("latency_ms:\n  grpc ttft: {p50: 30000}\n  itl: {p99: 30000}\n"
                   "  batch e2e: {p99: 60000}\nmax_error_share: 0\n"
                   "goodput: {ttft_ms: 60000, min_share: 1}\n")
    ran = load_test(server, gateway, "-u", "7", "-r", "7", "-t", "2s", "--slo", str(slo),
                    "--html", str(report), "GrpcStreamUser", "TritonSseUser", "SseUser",
                    "WebSocketUser", "OpenAIChatUser", "EmbeddingsUser", "BatchUser")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for kind in ("grpc", "triton-sse", "sse", "websocket", "openai"):
        for entry in ("ttft", "itl", "e2e"):
            assert f"  {kind} {entry} " in ran.stdout
    assert "  batch e2e " in ran.stdout
    assert "  embeddings e2e " in ran.stdout
    assert "batch ttft" not in ran.stdout
    assert "are met" in ran.stdout
    assert report.read_text().count("<svg") >= 1


def test_a_load_test_that_misses_one_ends_with_1(server, gateway, tmp_path):
    slo = tmp_path / "slo.yaml"
    slo.write_text("latency_ms:\n  websocket ttft: {p50: 0.01}\nmax_error_share: 0\n")
    ran = load_test(server, gateway, "-u", "4", "-r", "4", "-t", "3s", "--processes", "2",
                    "--arrivals", "poisson", "--rate", "10", "--abort-share", "0.5",
                    "--slow-share", "0.2", "--slo", str(slo), "GrpcStreamUser", "WebSocketUser")
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "MISSED" in ran.stdout
    for entry in ("grpc abort", "websocket abort", "websocket ttft"):
        assert entry in ran.stdout
    assert "Error report" not in ran.stdout, "who hangs up is no error"


def test_a_malformed_objective_is_refused_before_anything_is_asked(tmp_path):
    slo = tmp_path / "slo.yaml"
    slo.write_text("latency_ms:\n  ttfb: {p50: 1}\n")
    ran = subprocess.run([sys.executable, "-m", "loadtests", "--slo", str(slo)], cwd=ROOT,
                         capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 2
    assert "ttfb" in ran.stderr


def test_an_unknown_option_is_refused_before_anything_is_started():
    ran = subprocess.run([sys.executable, "-m", "loadtests", "--arrivls", "closed"], cwd=ROOT,
                         capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 2
    assert "--arrivls" in ran.stderr
