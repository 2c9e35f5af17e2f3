import numpy as np
import pytest
import triton_python_backend_utils as pb_utils

from tritonlm.backend.tensors import (
    error_response,
    model_response,
    output_tensor,
    request_parameters,
    request_tensors,
)
from tritonlm.contract import MODELS, Tensor
from tritonlm.errors import EngineFailure, InvalidArgument, NotFound, Unavailable


def test_a_request_becomes_arrays_and_parameters():
    ids = np.array([[1, 2]], np.int32)
    request = pb_utils.InferenceRequest({"input_ids": ids}, {"top_k": "3"})
    assert request_tensors(request)["input_ids"] is ids
    assert request_parameters(request) == {"top_k": "3"}


@pytest.mark.parametrize(("tensor", "values", "expected"), [
    (Tensor("text", "BYTES"), "é", np.array([["é".encode()]], np.object_)),
    (Tensor("texts", "BYTES", (-1,)), [], np.empty((1, 0), np.object_)),
    (Tensor("texts", "BYTES", (-1,)), ["a", "b"], np.array([[b"a", b"b"]], np.object_)),
    (Tensor("index", "INT32"), 3, np.array([[3]], np.int32)),
    (Tensor("ids", "INT32", (-1,)), (), np.empty((1, 0), np.int32)),
    (Tensor("span", "INT32", (2,)), (4, 7), np.array([[4, 7]], np.int32)),
])
def test_an_output_has_the_batch_dimension_and_the_contracts_dtype(tensor, values, expected):
    array = output_tensor(tensor, values).as_numpy()
    assert array.dtype == expected.dtype
    np.testing.assert_array_equal(array, expected, strict=True)


def test_only_requested_outputs_are_built():
    model = MODELS["text_generation"]
    response = model_response(model, {"text_output": "a", "chunk_index": 0}, ["text_output"])
    assert [tensor.name() for tensor in response.output_tensors()] == ["text_output"]


@pytest.mark.parametrize(("error", "code"), [
    (InvalidArgument("top_p", 2, "allowed: 0 to 1"), pb_utils.TritonError.INVALID_ARG),
    (NotFound("no request r1"), pb_utils.TritonError.NOT_FOUND),
    (Unavailable("the queue is full"), pb_utils.TritonError.UNAVAILABLE),
    (EngineFailure("out of memory"), pb_utils.TritonError.INTERNAL),
])
def test_an_error_keeps_its_message_and_class(error, code):
    told = error_response(error).error()
    assert (told.message(), told.code()) == (error.coded_message, code)


def test_a_bug_is_logged_and_not_told(caplog):
    try:
        raise KeyError("secret")
    except KeyError as error:
        told = error_response(error).error()
    assert told.code() == pb_utils.TritonError.INTERNAL
    assert "secret" not in told.message()
    assert "KeyError: 'secret'" in caplog.text


def test_half_a_character_in_an_error_is_replaced():
    told = error_response(NotFound("no \ud800")).error()
    assert told.message() == "NOT_FOUND: no ?"
