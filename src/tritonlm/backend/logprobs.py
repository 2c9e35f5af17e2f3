"""Log probabilities of one sequence's tokens, as the engine reports them, in JSON.

{"content": [ENTRY, ...]} has an entry for each of the ids in the same response. An entry is
{"token": TEXT, "id": ID, "logprob": X, "bytes": [...], "top_logprobs": [...]}; the alternatives in
it are like it, without alternatives of their own. With "prompt", a second list beside "content",
come entries for the prompt's tokens: null for the first one, before which there is nothing.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tritonlm.options import Options
from tritonlm.text.tokens import TokenTexts

LEAST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON cannot say."""


class LogprobRecord:
    """Takes in what the engine says of a sequence's tokens, by place; gives each out once."""

    def __init__(
        self, token_texts: TokenTexts, num_prompt: int, options: Options
    ) -> None:
        self._token_texts = token_texts
        self._num_prompt = num_prompt
        self._num_alternatives = options.logprobs
        self._num_prompt_alternatives = options.prompt_logprobs
        self._entries: dict[int, tuple[NDArray[np.int32], NDArray[np.float32]]] = {}

    def take(self, position: int, ids: NDArray[np.int32], values: NDArray[np.float32]) -> None:
        """The token at `position` of prompt and output, and alternatives to it, all [1 + k]."""
        self._entries[position] = ids, values

    def to_json(self, first: int, last: int, with_prompt: bool) -> str:
        """The entries of the output tokens `first` to `last` - 1, and those of the prompt."""
        told: dict[str, Any] = {"content": []}
        if self._num_alternatives is not None:
            told["content"] = [self._entry(self._num_prompt + place, self._num_alternatives)
                               for place in range(first, last)]
        if with_prompt and self._num_prompt_alternatives is not None:
            told["prompt"] = [self._entry(place, self._num_prompt_alternatives)
                              for place in range(self._num_prompt)]
        return json.dumps(told, ensure_ascii=False, separators=(",", ":"))

    def _entry(self, position: int, num_alternatives: int) -> dict[str, Any] | None:
        """None where the request ended before the token was measured."""
        if position not in self._entries:
            return None
        ids, values = self._entries.pop(position)
        entry, *alternatives = [self._described(*pair) for pair in zip(
            ids[: num_alternatives + 1].tolist(), values.tolist(), strict=False)]
        return {**entry, "top_logprobs": alternatives}

    def _described(self, token_id: int, logprob: float) -> dict[str, Any]:
        text, raw = self._token_texts[token_id]
        return {"token": text, "id": token_id, "logprob": round(max(logprob, LEAST_LOGPROB), 6),
                "bytes": list(raw)}
