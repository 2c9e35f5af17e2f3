"""Several prompts in one request: row i of every tensor is prompt i's."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from tritonlm.backend.generation import Answer
from tritonlm.contract import Model, Tensor
from tritonlm.errors import InvalidArgument, ServingError, from_code

PADDING = -1
"""Fills up a row of ids that is shorter than another."""
RAGGED = frozenset({"input_ids", "stop_token_ids"})
ASK_INTERVAL_S = 0.05
"""All prompts have one client."""


def prompt_rows(tensors: Mapping[str, NDArray[Any]]) -> list[dict[str, NDArray[Any]]]:
    """The tensors of each prompt, of shape [1, n]; raises `InvalidArgument`.

    Triton itself refuses more rows than `max_batch_size` of the model's config.
    """
    num_rows = max((len(values) for values in tensors.values() if values.ndim > 1), default=1)
    if num_rows <= 1:
        return [dict(tensors)]
    for name, values in tensors.items():
        if values.ndim < 2 or len(values) != num_rows:
            raise InvalidArgument(name, list(values.shape), f"one row a prompt: [{num_rows}, n]")
    return [{name: _row(name, values[place : place + 1]) for name, values in tensors.items()}
            for place in range(num_rows)]


def _row(name: str, values: NDArray[Any]) -> NDArray[Any]:
    if name not in RAGGED:
        return values
    own = np.flatnonzero(values[0] != PADDING)
    return values[:, : own[-1] + 1 if own.size else 0]


def naming_prompt(index: int, error: ServingError) -> ServingError:
    """The error, which says of which prompt it is."""
    return from_code(error.code, f"prompt {index}: {error.message}")


class PromptBatch:
    """What the answers to the prompts of one request have in common."""

    def __init__(self, num_prompts: int) -> None:
        self.num_unfinished = num_prompts
        self.has_failed = False
        self.wholes: list[dict[str, Any]] = [{}] * num_prompts
        """What is to be sent of each prompt at the end of all, if nothing is sent before."""
        self._is_abandoned = False
        self._asked_s = 0.0

    def is_abandoned(self, ask: Callable[[], bool]) -> bool:
        """Whether nobody waits for the prompts any more."""
        if self.has_failed:
            return True
        if time.monotonic() - self._asked_s > ASK_INTERVAL_S:
            self._is_abandoned = ask()
            self._asked_s = time.monotonic()
        return self._is_abandoned


class PromptAnswer(Answer):
    """The answer to one of the prompts: sent as it comes, or together with the others.

    An error of one is that of the request: the other prompts are given up.
    """

    def __init__(
        self, request: pb_utils.InferenceRequest, model: Model, is_cached: bool,
        batch: PromptBatch, index: int,
    ) -> None:
        super().__init__(request, model, is_cached)
        self.prompt_index = index
        self._batch = batch

    def send(self, values: dict[str, Any], is_final: bool) -> None:
        """As `Answer.send`; where all prompts have one response, the last one to end sends it."""
        batch = self._batch
        if not batch.has_failed:
            is_last = is_final and batch.num_unfinished == 1
            if self._model.is_decoupled:
                super().send(values, is_last)
            else:
                batch.wholes[self.prompt_index] = values
                if is_last:
                    super().send(stacked(self._model, batch.wholes), True)
        batch.num_unfinished -= is_final
        self.is_finished = is_final

    def fail(self, error: Exception) -> None:
        """End the request with `error`, unless another prompt's has ended it."""
        if not self._batch.has_failed:
            super().fail(naming_prompt(self.prompt_index, error)
                         if isinstance(error, ServingError) else error)
            self._batch.has_failed = True
        self.is_finished = True

    def is_abandoned(self) -> bool:
        """Whether the client has hung up, or the request has failed."""
        return self._batch.is_abandoned(super().is_abandoned)


def stacked(model: Model, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One answer whose row i is `rows[i]`, shorter ones filled up with -1 or empty texts."""
    return {tensor.name: _stacked(tensor, [row[tensor.name] for row in rows])
            for tensor in model.outputs}


def _stacked(tensor: Tensor, values: Sequence[Any]) -> NDArray[Any]:
    rows = [[value] if isinstance(value, str | int) else list(value) for value in values]
    width = max(map(len, rows))
    filler = "" if tensor.dtype == "BYTES" else PADDING
    filled = [[*row, *[filler] * (width - len(row))] for row in rows]
    dtype = np.object_ if tensor.dtype == "BYTES" else np.int32
    return np.array(filled, dtype).reshape(len(rows), width)
