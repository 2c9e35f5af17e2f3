"""Between Triton's requests and responses and numpy: the batch dimension is added here."""

from __future__ import annotations

import json
import logging
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from tritonlm.contract import NUMPY_DTYPES, Model, Tensor
from tritonlm.errors import EngineFailure, InvalidArgument, ServingError
from tritonlm.logs import fields

logger = logging.getLogger(__name__)


def request_tensors(request: pb_utils.InferenceRequest) -> dict[str, NDArray[Any]]:
    """The input tensors that the request has, by name; texts are objects of type bytes."""
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}


def request_parameters(request: pb_utils.InferenceRequest) -> dict[str, Any]:
    """The request parameters: bool, int, float or str, by name; raises `InvalidArgument`."""
    with _utf8("parameters"):
        parameters: dict[str, Any] = json.loads(request.parameters() or "{}")
    return parameters


def request_id(request: pb_utils.InferenceRequest) -> str:
    """The id that the client has given; raises `InvalidArgument`."""
    with _utf8("id"):
        return str(request.request_id())


def readable_id(request: pb_utils.InferenceRequest) -> str:
    """For the log: the id, or nothing where it cannot be read."""
    try:
        return request_id(request)
    except InvalidArgument:
        return ""


@contextmanager
def _utf8(name: str) -> Iterator[None]:
    """Triton's HTTP takes any bytes for a text, which are looked at when a model asks for it."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise InvalidArgument(name, error.object,
                              f"it must be UTF-8: {error.reason} at byte {error.start}") from None


def output_tensor(tensor: Tensor, values: Any) -> pb_utils.Tensor:
    """An output of shape [1, n] in the contract's dtype from one value or n values.

    An array of two dimensions keeps its shape.
    """
    shape = values.shape if isinstance(values, np.ndarray) and values.ndim == 2 else (1, -1)
    if tensor.dtype == "BYTES":
        texts = [values] if isinstance(values, str) else values if shape == (1, -1) else values.flat
        array = np.array([text.encode() for text in texts], np.object_)
    else:
        array = np.asarray(values, NUMPY_DTYPES[tensor.dtype])
    return pb_utils.Tensor(tensor.name, array.reshape(shape))


def model_response(
    model: Model, values: Mapping[str, Any], requested: Container[str]
) -> pb_utils.InferenceResponse:
    """A response of `model` with the outputs of `values` that are `requested`.

    Outputs that were not requested are not built: `send` of tritonserver 24.10 would free them
    without holding the GIL.
    """
    return pb_utils.InferenceResponse([output_tensor(tensor, values[tensor.name])
                                       for tensor in model.outputs
                                       if tensor.name in requested and tensor.name in values])


def error_response(error: Exception, request_id: str = "") -> pb_utils.InferenceResponse:
    """The response that tells a client of `error`.

    Only a `ServingError` is told in its own words; anything else is a bug, and goes to the log.
    """
    if not isinstance(error, ServingError):
        logger.error("unexpected error", exc_info=error, extra=fields(request_id=request_id))
        error = EngineFailure("internal error; the server's log says more")
    code = getattr(pb_utils.TritonError, error.code)
    message = error.coded_message.encode(errors="replace").decode()  # Triton takes UTF-8 alone
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
