"""Whoever comes while no server runs starts one: KEDA's question to a real Prometheus."""

from __future__ import annotations

import shutil

import pytest
import yaml
from k8s.render import K8S
from tests.integration.gateway import post, running_gateway
from tests.running_prometheus import running_prometheus

NOBODY = "127.0.0.1:9"
SCALED = K8S / "components" / "scale-to-zero" / "scaled-object.yaml"


@pytest.mark.skipif(shutil.which("prometheus") is None,
                    reason="needs prometheus: apt-get install prometheus")
def test_the_first_request_that_finds_no_server_asks_for_one(tmp_path):
    triggers = {each["name"]: each["metadata"]
                for each in yaml.safe_load(SCALED.read_text())["spec"]["triggers"]}
    wanted, threshold = (triggers["wanted"][name] for name in ("query", "activationThreshold"))
    query = wanted.replace('namespace="tritonlm"', 'instance!=""')  # a cluster's Prometheus adds it
    assert query != wanted
    with (running_gateway(NOBODY) as url,
          running_prometheus(tmp_path, [f"{url}/metrics"]) as prometheus):
        prometheus.wait_for(f"({query}) <= {threshold}")
        prometheus.wait_for("tritonlm_gateway_requests_in_flight")
        assert post(f"{url}/v1/completions", {"model": "generate", "prompt": "Hi"})[0] == 503
        prometheus.wait_for(f"({query}) > {threshold}")
