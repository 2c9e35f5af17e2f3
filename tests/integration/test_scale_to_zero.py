"""Whether a server is wanted at all: KEDA's question to a real Prometheus."""

from __future__ import annotations

import asyncio
import shutil

import pytest
import yaml
from k8s.render import K8S
from tests.fakes.many_requests_triton import serve
from tests.fakes.triton_service import chunk
from tests.integration.gateway import get, post, running_gateway
from tests.running_prometheus import running_prometheus

NOBODY = "127.0.0.1:9"
COMPLETION = {"model": "generate", "prompt": "Hi"}
SCALED = K8S / "components" / "scale-to-zero" / "scaled-object.yaml"


pytestmark = pytest.mark.skipif(shutil.which("prometheus") is None,
                                reason="needs prometheus: apt-get install prometheus")


@pytest.fixture(scope="module")
def wanted():
    """What KEDA compares with 0, over whatever Prometheus sees."""
    [trigger] = [each["metadata"] for each in yaml.safe_load(SCALED.read_text())["spec"]["triggers"]
                 if each["name"] == "wanted"]
    assert trigger["activationThreshold"] == "0"
    query = trigger["query"].replace('namespace="tritonlm"', 'instance!=""')  # a cluster's adds it
    assert query != trigger["query"]
    return f"({query})"


def test_the_first_request_that_finds_no_server_asks_for_one(wanted, tmp_path):
    with (running_gateway(NOBODY) as url,
          running_prometheus(tmp_path, [f"{url}/metrics"]) as prometheus):
        prometheus.wait_for(f"{wanted} == 0")
        prometheus.wait_for("tritonlm_gateway_requests_in_flight")
        assert post(f"{url}/v1/completions", COMPLETION)[0] == 503
        prometheus.wait_for(f"{wanted} > 0")


async def test_a_server_that_has_answered_of_late_is_wanted_though_nothing_runs(wanted, tmp_path):
    """And who only looks at what there is keeps none."""
    def look(server):
        with (running_gateway(server) as url,
              running_prometheus(tmp_path, [f"{url}/metrics"]) as prometheus):
            for path in ("/v1/models", "/"):
                assert get(url + path)[0] == 200
            prometheus.wait_for('tritonlm_gateway_requests_total{path="/v1/models"} > 0')
            prometheus.wait_for(f"{wanted} == 0")
            assert post(f"{url}/v1/completions", COMPLETION)[0] == 200
            prometheus.wait_for(f"{wanted} == 1")

    async with serve(answer) as triton:
        await asyncio.to_thread(look, triton.url)


async def answer(_, send):
    send(chunk("Ho", finish_reason="stop", is_final=True))
