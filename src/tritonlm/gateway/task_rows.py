"""Requests to models of tasks: rows of texts or ids go in, and of each output a row comes out."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse
from tritonclient.utils import deserialize_bytes_tensor, triton_to_np_dtype

from tritonlm.errors import InvalidArgument, Unavailable
from tritonlm.gateway.body import Body
from tritonlm.gateway.fleet import Fleet
from tritonlm.options import INT32_MAX, PRIORITIES
from tritonlm_client.requests import Request

MAX_ROWS = 64
"""Of a request, as the models' max_batch_size has it."""
US_PER_MS = MS_PER_S = 1000
Outputs = dict[str, NDArray[Any]]


class TaskBody(Body, frozen=True, kw_only=True):
    """What calls of all tasks have."""

    NAMES: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("text_input", "input_ids", "num_input_tokens"), "input")
    """Names that fields have here, by those of the contract."""

    model: str
    user: str | None = None
    priority: str = "normal"
    timeout_ms: int | None = None

    def __post_init__(self) -> None:
        """Raise `InvalidArgument` for what a server would not take."""
        if self.priority not in PRIORITIES:
            raise InvalidArgument("priority", self.priority, f"allowed: {', '.join(PRIORITIES)}")
        if self.timeout_ms is not None and not 1 <= self.timeout_ms <= INT32_MAX:
            raise InvalidArgument("timeout_ms", self.timeout_ms, f"allowed: 1 to {INT32_MAX}")


async def infer_rows(
    fleet: Fleet, task: str, body: TaskBody, tensors: Sequence[Mapping[str, NDArray[Any]]],
    outputs: Sequence[str],
) -> list[Outputs]:
    """The `outputs` for each of `tensors`, which have up to `MAX_ROWS` rows each.

    They travel side by side, so that a server may batch them. Raises `ServingError`.
    """
    model = fleet.resolve(body.model, task)
    requests = [_queued(Request(model, uuid4().hex, rows, outputs).as_protobuf(), body)
                for rows in tensors]
    answers = asyncio.gather(*(_infer(fleet, request) for request in requests))
    if body.timeout_ms is None:
        return list(await answers)
    # Triton looks at its own timeout only when it is a request's turn.
    try:
        return list(await asyncio.wait_for(answers, body.timeout_ms / MS_PER_S))
    except asyncio.TimeoutError:
        raise Unavailable(f"timeout_ms: there was no answer within {body.timeout_ms} ms; "
                          "the queue is long, or the request is") from None


def num_tokens(answers: Sequence[Outputs]) -> int:
    """Tokens of all rows, where the output that tells them was asked for."""
    return int(sum(answer["num_input_tokens"].sum() for answer in answers))


def text_rows(columns: Mapping[str, Sequence[str]]) -> list[dict[str, NDArray[Any]]]:
    """Tensors [rows, 1] of texts, in groups of up to `MAX_ROWS`."""
    num_rows = len(next(iter(columns.values())))
    return [{name: np.array([[text.encode()] for text in texts[start : start + MAX_ROWS]],
                            np.object_) for name, texts in columns.items()}
            for start in range(0, num_rows, MAX_ROWS)]


def id_rows(prompts: Sequence[Sequence[int]]) -> list[dict[str, NDArray[Any]]]:
    """Tensors [rows, n] of token ids, padded, in groups of up to `MAX_ROWS`."""
    return [_padded(prompts[start : start + MAX_ROWS])
            for start in range(0, len(prompts), MAX_ROWS)]


def _padded(prompts: Sequence[Sequence[int]]) -> dict[str, NDArray[Any]]:
    lengths = [len(prompt) for prompt in prompts]
    ids = np.zeros((len(prompts), max(lengths)), np.int32)
    for row, prompt in zip(ids, prompts, strict=True):
        row[: len(prompt)] = prompt
    return {"input_ids": ids, "num_input_tokens": np.array([lengths], np.int32).T}


def _queued(request: ModelInferRequest, body: TaskBody) -> ModelInferRequest:
    """With what Triton's queue is to know; its levels of priority begin at 1."""
    request.parameters["priority"].int64_param = PRIORITIES.index(body.priority) + 1
    if body.timeout_ms is not None:
        request.parameters["timeout"].int64_param = body.timeout_ms * US_PER_MS
    return request


async def _infer(fleet: Fleet, request: ModelInferRequest) -> Outputs:
    """From one server, or if that is lost, from another."""
    tried = [fleet.choose(request.model_name)]
    while True:
        try:
            # As long as it takes: rows may queue, and who asks says `timeout_ms`, or hangs up.
            return _outputs(await tried[-1].connection.infer(request, None))
        except Unavailable as error:
            try:
                tried.append(fleet.choose(request.model_name, avoided=tried))
            except Unavailable:
                raise error from None


def _outputs(response: ModelInferResponse) -> Outputs:
    return {output.name: _array(output, raw)
            for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)}


def _array(output: Any, raw: bytes) -> NDArray[Any]:
    if output.datatype == "BYTES":
        return np.asarray(deserialize_bytes_tensor(raw)).reshape(output.shape)
    return np.frombuffer(raw, triton_to_np_dtype(output.datatype)).reshape(output.shape)
