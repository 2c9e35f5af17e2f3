"""Models of tasks: Triton's batches in, one response for each request out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from tritonlm.backend.task_metrics import TaskMetrics
from tritonlm.backend.tensors import error_response, request_parameters, request_tensors
from tritonlm.contract import NUM_INPUT_TOKENS, TASK_MODELS, Model
from tritonlm.encoders.inputs import parse_items, refuse_parameters
from tritonlm.encoders.row_encoder import RowEncoder
from tritonlm.encoders.rows import Item, Row
from tritonlm.encoders.task import Task
from tritonlm.errors import InvalidArgument, ServingError

Parsed = tuple[dict[str, NDArray[Any]], list[Item]]
"""A request's tensors, and its items."""


class TaskModel:
    """Base of the models: all rows of all requests of a batch are computed together."""

    name: ClassVar[str]
    text_names: ClassVar[tuple[str, ...]]

    def load(self, args: Mapping[str, str]) -> Task:
        """The task of the model's settings; raises `ServingError`."""
        raise NotImplementedError

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the checkpoint; one that does not fit fails the load of this model alone."""
        try:
            self._task = self.load(args)
        except ServingError as error:
            raise pb_utils.TritonModelException(error.message) from error
        self._metrics = TaskMetrics(args["model_name"])

    def execute(
        self, requests: Sequence[pb_utils.InferenceRequest]
    ) -> list[pb_utils.InferenceResponse]:
        """One response for each request: its outputs, or the error of its rows alone."""
        parsed = [self._parse(request) for request in requests]
        try:
            results = self._compute([one for one in parsed if isinstance(one, tuple)])
        except Exception as error:
            return [error_response(error) for _ in requests]
        self._metrics.show(self._task.runner.work)
        answers = iter(results)
        model = TASK_MODELS[self.name]
        return [task_response(model, next(answers) if isinstance(one, tuple) else one,
                              request.requested_output_names())
                for request, one in zip(requests, parsed, strict=True)]

    def _parse(self, request: pb_utils.InferenceRequest) -> Parsed | InvalidArgument:
        tensors = request_tensors(request)
        try:
            refuse_parameters(request_parameters(request))
            self._task.check(tensors)
            return tensors, parse_items(tensors, self.text_names)
        except InvalidArgument as error:
            return error

    def _compute(
        self, requests: Sequence[Parsed]
    ) -> list[dict[str, NDArray[Any]] | InvalidArgument]:
        rows = split_rows(self._task.encoder, [items for _, items in requests])
        good = [row for one in rows if isinstance(one, list) for row in one]
        vectors = self._task.runner.run(good) if good else np.empty((0, 0), np.float32)
        results: list[dict[str, NDArray[Any]] | InvalidArgument] = []
        for (tensors, _), one in zip(requests, rows, strict=True):
            if isinstance(one, InvalidArgument):
                results.append(one)
                continue
            own, vectors = vectors[: len(one)], vectors[len(one):]
            results.append({NUM_INPUT_TOKENS.name: row_lengths(one),
                            **self._task.outputs(own, tensors)})
        return results


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


def task_response(
    model: Model, result: Mapping[str, NDArray[Any]] | InvalidArgument, requested: Sequence[str]
) -> pb_utils.InferenceResponse:
    """The response with those outputs of `model` that are `requested`, or with the error."""
    if isinstance(result, InvalidArgument):
        return error_response(result)
    return pb_utils.InferenceResponse([
        pb_utils.Tensor(tensor.name, np.ascontiguousarray(result[tensor.name]))
        for tensor in model.outputs if tensor.name in requested])
