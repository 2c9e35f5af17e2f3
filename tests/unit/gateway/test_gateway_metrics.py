"""Counters are there before they count, and gone servers are not."""

import os
import subprocess
import sys

import pytest
from prometheus_client import REGISTRY

from tritonlm.gateway import metrics
from tritonlm.gateway.app import create_app
from tritonlm.gateway.journal import Journal
from tritonlm.gateway.settings import GatewaySettings

FORGETS = """
from tritonlm.gateway import metrics
for name in ("gone:8001", "here:8001"):
    metrics.SERVER_UP.labels(name).set(0)
metrics.forget_server("gone:8001")
print(metrics.page().decode())
"""
IS_KILLED = """
import os, signal
from tritonlm.gateway import metrics
metrics.IN_FLIGHT.inc(5)
metrics.SERVER_UP.labels("a:8001").set(0)
metrics.REQUESTS.labels("/", "200").inc()
os.kill(os.getpid(), signal.SIGKILL)
"""
LIVES_ON = """
from tritonlm.gateway import metrics
metrics.IN_FLIGHT.inc(2)
metrics.SERVER_UP.labels("a:8001").set(1)
metrics.REQUESTS.labels("/", "200").inc()
print(metrics.page().decode())
"""


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings", "/generate_stream",
                                  "/ws generate"])
def test_faults_of_a_path_are_counted_from_zero_before_it_has_a_request(path, tmp_path):
    create_app(GatewaySettings(), tmp_path)
    assert REGISTRY.get_sample_value("tritonlm_gateway_requests_total",
                                     {"path": path, "status": "503"}) is not None


def test_a_servers_failures_are_counted_from_zero():
    metrics.begin_server("somewhere:8001")
    assert REGISTRY.get_sample_value("tritonlm_gateway_server_ejections_total",
                                     {"server": "somewhere:8001"}) == 0


@pytest.mark.parametrize("shared", [True, False])
def test_a_server_that_has_left_is_not_called_down(shared, tmp_path):
    environ = {key: value for key, value in os.environ.items() if key != metrics.FOLDER_VARIABLE}
    told = subprocess.run(
        [sys.executable, "-c", FORGETS], capture_output=True, text=True, check=True,
        env=environ | ({metrics.FOLDER_VARIABLE: str(tmp_path)} if shared else {})).stdout
    assert 'tritonlm_gateway_server_up{server="here:8001"} 0.0' in told
    assert 'server_up{server="gone:8001"}' not in told


def test_what_a_killed_worker_had_under_way_is_over_and_what_it_did_is_not(tmp_path):
    environ = os.environ | {metrics.FOLDER_VARIABLE: str(tmp_path)}
    told = [subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                           check=False, env=environ).stdout for script in (IS_KILLED, LIVES_ON)][1]
    assert "\ntritonlm_gateway_requests_in_flight 2.0\n" in told
    assert '\ntritonlm_gateway_server_up{server="a:8001"} 1.0\n' in told
    assert '\ntritonlm_gateway_requests_total{path="/",status="200"} 2.0\n' in told


@pytest.mark.parametrize("num_tokens", [7, 0])
def test_tokens_of_texts_that_are_embedded_are_counted_and_of_no_answer_are_not(num_tokens):
    journal, name = Journal(is_logged=False, tracer=None), f"embeds {num_tokens}"
    record = journal.begin("a", "POST", "/v1/embeddings", "")
    record.model = name
    record.usage.count_input(num_tokens)
    journal.end(record, "/v1/embeddings")
    assert REGISTRY.get_sample_value("tritonlm_gateway_input_tokens_total",
                                     {"model": name}) == (num_tokens or None)
