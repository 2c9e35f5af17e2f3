"""What models of tasks and their tokenizers share; it needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from tritonlm.backend.tensors import error_response, readable_id
from tritonlm.contract import Model
from tritonlm.encoders.row_encoder import RowEncoder
from tritonlm.encoders.rows import Item, Row
from tritonlm.errors import InvalidArgument

Result: TypeAlias = "dict[str, NDArray[Any]] | Exception"
"""A request's outputs, or its error."""


def split_rows(
    encoder: RowEncoder, requests: Sequence[list[Item]]
) -> list[list[Row] | InvalidArgument]:
    """For each request its rows, or the first error of them; all are encoded together."""
    encoded = iter(encoder.encode([item for items in requests for item in items]))
    results: list[list[Row] | InvalidArgument] = []
    for items in requests:
        own = [next(encoded) for _ in items]
        error = next((row for row in own if isinstance(row, InvalidArgument)), None)
        results.append(error or [row for row in own if isinstance(row, Row)])
    return results


def row_lengths(rows: Sequence[Row]) -> NDArray[np.int32]:
    """`num_input_tokens`, [rows, 1]."""
    return np.array([[row.ids.size] for row in rows], np.int32)


def task_responses(
    model: Model, requests: Sequence[pb_utils.InferenceRequest], results: Sequence[Result]
) -> list[pb_utils.InferenceResponse]:
    """Responses with those outputs of `model` that are requested, or with the errors."""
    return [_response(model, request, result)
            for request, result in zip(requests, results, strict=True)]


def _response(
    model: Model, request: pb_utils.InferenceRequest, result: Result
) -> pb_utils.InferenceResponse:
    if isinstance(result, Exception):
        return error_response(result, readable_id(request))
    requested = request.requested_output_names()
    return pb_utils.InferenceResponse([
        pb_utils.Tensor(tensor.name, np.ascontiguousarray(result[tensor.name]))
        for tensor in model.outputs if tensor.name in requested])
