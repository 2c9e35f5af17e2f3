import pytest
from triton_service import empty_final, serve
from tritonclient.grpc.service_pb2 import ModelConfigResponse

from tritonlm.contract import Tensor
from tritonlm_client import Client, ModelInfo


@pytest.fixture
def triton():
    config = ModelConfigResponse()
    config.config.model_transaction_policy.decoupled = True
    config.config.input.add(name="text_input", data_type="TYPE_STRING", dims=[1], optional=True)
    config.config.output.add(name="output_ids", data_type="TYPE_INT32", dims=[-1])
    with serve(lambda *_: iter([empty_final()])) as service:
        service.models = {("generate", "READY"): config, ("broken", "UNAVAILABLE"): None}
        yield service


def test_models_say_what_they_take_and_give(triton):
    with Client(triton.url) as client:
        ready, broken = client.models()
    assert ready == ModelInfo(
        "generate", "1", "READY", "", is_decoupled=True,
        inputs=(Tensor("text_input", "BYTES", (1,), is_optional=True),),
        outputs=(Tensor("output_ids", "INT32", (-1,)),))
    assert broken == ModelInfo("broken", "1", "UNAVAILABLE", "")
    assert ready.is_ready
    assert not broken.is_ready


@pytest.mark.parametrize(("model", "is_ready"), [
    ("generate", True), ("broken", False), ("missing", False),
])
def test_readiness_is_that_of_the_model(triton, model, is_ready):
    with Client(triton.url, model) as client:
        assert client.is_ready() is is_ready
        assert client.is_live()
