"""Models of tasks: Triton's batches in, one response for each request out."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from tritonlm.backend.batch_epilogue import BatchEpilogue
from tritonlm.backend.task_metrics import TaskMetrics
from tritonlm.backend.task_rows import Result, row_lengths, split_rows, task_responses
from tritonlm.backend.tensors import request_parameters, request_tensors
from tritonlm.backend.vital import EXIT_CODE
from tritonlm.contract import NUM_INPUT_TOKENS, TASK_MODELS
from tritonlm.encoders.config import TaskConfig, from_triton
from tritonlm.encoders.inputs import parse_items, refuse_parameters
from tritonlm.encoders.rows import Item
from tritonlm.encoders.task import Task
from tritonlm.engine.device import lost_device
from tritonlm.errors import InvalidArgument, ServingError
from tritonlm.logs import configure
from tritonlm.tracing import from_environment

LOG = logging.getLogger(__name__)
Parsed = tuple[dict[str, NDArray[Any]], list[Item]]
"""A request's tensors, and its items."""


class TaskModel:
    """Base of the models: all rows of all requests of a batch are computed together."""

    name: ClassVar[str]
    text_names: ClassVar[tuple[str, ...]]
    config: ClassVar[type[TaskConfig]]
    task: ClassVar[type[Any]]
    """The `Task` that is made of such a config; may raise `ServingError`."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the checkpoint; one that does not fit fails the load of this model alone."""
        try:
            config = from_triton(self.config, args)
            configure(args["model_instance_name"], config.log_format)
            self._epilogue = BatchEpilogue(args["model_name"], config.request_log,
                                           from_environment("tritonlm"))
            self._task: Task = self.task(config)
        except ServingError as error:
            raise pb_utils.TritonModelException(error.message) from error
        self._metrics = TaskMetrics(args["model_name"])

    def execute(
        self, requests: Sequence[pb_utils.InferenceRequest]
    ) -> list[pb_utils.InferenceResponse]:
        """One response for each request: its outputs, or the error of its rows alone."""
        began_s = time.monotonic()
        results = self._results(requests)
        self._metrics.show(self._task.runner.work)
        self._epilogue.tell(requests, results, began_s)
        return task_responses(TASK_MODELS[self.name], requests, results)

    def finalize(self) -> None:
        """Send what is left to tell, and leave no metrics."""
        self._epilogue.close()
        self._metrics.close()

    def _results(self, requests: Sequence[pb_utils.InferenceRequest]) -> list[Result]:
        parsed = [self._parse(request) for request in requests]
        try:
            results = iter(self._compute([one for one in parsed if isinstance(one, tuple)]))
        except Exception as error:
            _end_with_device()
            return [error for _ in requests]
        return [next(results) if isinstance(one, tuple) else one for one in parsed]

    def _parse(self, request: pb_utils.InferenceRequest) -> Parsed | InvalidArgument:
        tensors = request_tensors(request)
        try:
            refuse_parameters(request_parameters(request))
            self._task.check(tensors)
            return tensors, parse_items(tensors, self.text_names)
        except InvalidArgument as error:
            return error

    def _compute(self, requests: Sequence[Parsed]) -> list[Result]:
        rows = split_rows(self._task.encoder, [items for _, items in requests])
        good = [row for one in rows if isinstance(one, list) for row in one]
        vectors = self._task.runner.run(good) if good else np.empty((0, 0), np.float32)
        results: list[Result] = []
        for (tensors, _), one in zip(requests, rows, strict=True):
            if isinstance(one, InvalidArgument):
                results.append(one)
                continue
            own, vectors = vectors[: len(one)], vectors[len(one):]
            results.append({NUM_INPUT_TOKENS.name: row_lengths(one),
                            **self._task.outputs(own, tensors)})
        return results


def _end_with_device() -> None:
    """End this process if no batch will ever work in it again: its server is started anew."""
    reason = lost_device()
    if reason:
        LOG.error("the device is lost: %s", reason)
        os._exit(EXIT_CODE)
