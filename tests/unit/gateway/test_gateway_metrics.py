"""Counters are there before they count."""

from prometheus_client import REGISTRY

from tritonlm.gateway import metrics


def test_faults_of_a_path_are_counted_from_zero():
    metrics.begin_path("/v1/anything")
    assert REGISTRY.get_sample_value("tritonlm_gateway_requests_total",
                                     {"path": "/v1/anything", "status": "503"}) == 0


def test_a_servers_failures_are_counted_from_zero():
    metrics.begin_server("somewhere:8001")
    assert REGISTRY.get_sample_value("tritonlm_gateway_server_ejections_total",
                                     {"server": "somewhere:8001"}) == 0
