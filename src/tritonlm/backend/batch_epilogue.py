"""What is told of the requests of a batch, which are over together: to the log and to traces."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from tritonlm.backend.request_log import RequestLog
from tritonlm.backend.tensors import readable_id, request_parameters
from tritonlm.contract import MODELS, NUM_INPUT_TOKENS
from tritonlm.errors import InvalidArgument, ServingError
from tritonlm.tracing import TRACEPARENT, Stage, Tracer, is_traceparent

INPUT_IDS = MODELS["tokenize"].outputs[0].name
Outputs = Mapping[str, NDArray[Any]]


class BatchEpilogue:
    """Tells of the requests of one model that answers batches."""

    def __init__(self, model: str, logs_all: bool, tracer: Tracer | None) -> None:
        """`logs_all`: a line for each request; else for those that fail."""
        self._model = model
        self._log = RequestLog(model, logs_all)
        self._tracer = tracer

    def tell(
        self, requests: Sequence[pb_utils.InferenceRequest],
        results: Sequence[Outputs | Exception], began_s: float,
    ) -> None:
        """All requests of a batch are over, each with its outputs or its error."""
        whole = Stage(self._model, began_s, time.monotonic())
        for request, result in zip(requests, results, strict=True):
            error, known = "", {}
            outcome, reason = "finished", None
            if isinstance(result, Exception):
                error, (outcome, reason) = str(result), _ending(result)
            else:
                known = {"input_tokens": _num_tokens(result)}
            self._log.tell(readable_id(request), outcome, reason, whole.end_s - began_s, error,
                           **known)
            if self._tracer is not None:
                self._trace(self._tracer, request, whole, error, known)

    def close(self) -> None:
        """Send what has not been sent yet."""
        if self._tracer is not None:
            self._tracer.close()

    def _trace(
        self, tracer: Tracer, request: pb_utils.InferenceRequest, whole: Stage, error: str,
        known: Mapping[str, int],
    ) -> None:
        tracer.record(whole, _traceparent(request), (), {
            "gen_ai.request.model": self._model, "gen_ai.response.id": readable_id(request),
            "gen_ai.usage.input_tokens": known.get("input_tokens")}, error)


def _traceparent(request: pb_utils.InferenceRequest) -> str:
    """Empty if it has none that can be read."""
    try:
        given = request_parameters(request).get(TRACEPARENT, "")
    except InvalidArgument:
        return ""
    return str(given) if is_traceparent(given) else ""


def _num_tokens(result: Outputs) -> int:
    """Of a task's rows, or of the ids of a prompt."""
    lengths = result.get(NUM_INPUT_TOKENS.name)
    return result[INPUT_IDS].size if lengths is None else int(lengths.sum())


def _ending(error: Exception) -> tuple[str, str]:
    """Outcome and reason: what is not allowed is refused, all else has failed."""
    code = error.code if isinstance(error, ServingError) else ServingError.code
    return "refused" if isinstance(error, InvalidArgument) else "failed", code.lower()
