"""Lines of log about requests that are over, each with the request's id."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from tritonlm.contract import MODELS, NUM_INPUT_TOKENS
from tritonlm.errors import InvalidArgument, ServingError
from tritonlm.logs import fields

LOG = logging.getLogger(__name__)
INPUT_IDS = MODELS["tokenize"].outputs[0].name


class RequestLog:
    """The log of one model's requests."""

    def __init__(self, model: str, logs_all: bool) -> None:
        """`logs_all`: a line for each request; else for those that fail."""
        self._model = model
        self._logs_all = logs_all

    def tell(
        self, request_id: str, outcome: str, reason: str | None, total_s: float, error: str = "",
        **known: Any,
    ) -> None:
        """A request is over: it has finished, was refused, or has failed with `error`."""
        if self._logs_all or outcome == "failed":
            LOG.log(logging.WARNING if outcome == "failed" else logging.INFO, error or "request",
                    extra=fields(request_id=request_id, model=self._model, outcome=outcome,
                                 reason=reason, seconds=round(total_s, 4), **known))

    def tell_batch(
        self, requests: Sequence[pb_utils.InferenceRequest],
        results: Sequence[Mapping[str, NDArray[Any]] | Exception], began_s: float,
    ) -> None:
        """All requests of a batch are over, each with its outputs or its error."""
        total_s = time.monotonic() - began_s
        for request, result in zip(requests, results, strict=True):
            if isinstance(result, Exception):
                self.tell(request.request_id(), *_ending(result), total_s, str(result))
            else:
                self.tell(request.request_id(), "finished", None, total_s,
                          input_tokens=_num_tokens(result))


def _num_tokens(result: Mapping[str, NDArray[Any]]) -> int:
    """Of a task's rows, or of the ids of a prompt."""
    lengths = result.get(NUM_INPUT_TOKENS.name)
    return result[INPUT_IDS].size if lengths is None else int(lengths.sum())


def _ending(error: Exception) -> tuple[str, str]:
    """Outcome and reason: what is not allowed is refused, all else has failed."""
    code = error.code if isinstance(error, ServingError) else ServingError.code
    return "refused" if isinstance(error, InvalidArgument) else "failed", code.lower()
