"""docs/metrics.md says what the code does."""

from tritonlm.backend.metric_definitions import METRICS
from tritonlm.observability import reference


def test_the_document_has_the_tables_as_the_code_makes_them():
    text = reference.DOCUMENT.read_text()
    assert text == reference.with_tables(text), (
        "run: python -m tritonlm.observability.reference")
    for name in (*METRICS, *reference.gateway_definitions()):
        assert f"| `{name}` |" in text


def test_the_gateways_metrics_have_the_names_of_its_page():
    found = reference.gateway_definitions()
    assert found["tritonlm_gateway_requests_total"].labels == ("path", "status")
    assert found["tritonlm_gateway_requests_in_flight"].kind == "gauge"
