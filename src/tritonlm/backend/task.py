"""Models of tasks: Triton's batches in, one response for each request out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from tritonlm.backend.task_metrics import TaskMetrics
from tritonlm.backend.task_rows import row_lengths, split_rows, task_response
from tritonlm.backend.tensors import error_response, request_parameters, request_tensors
from tritonlm.contract import NUM_INPUT_TOKENS, TASK_MODELS
from tritonlm.encoders.inputs import parse_items, refuse_parameters
from tritonlm.encoders.rows import Item
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
