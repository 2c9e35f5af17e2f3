"""The sampling options of the table's rows, by column."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tritonlm.engine.messages import Submit
from tritonlm.options import MAX_BAD_WORD_TOKENS, MAX_BAD_WORDS, MAX_LOGIT_BIAS

MAX_BANNED = 2 * MAX_BAD_WORDS
"""Banned token sequences of a request: each text with and without a space before it."""
NOTHING = -1
"""Where there is no token."""
NUM_DRAW_WORDS = 6


class SamplingColumns:
    """How each of `num_rows` requests wants its tokens drawn."""

    def __init__(self, num_rows: int) -> None:
        self.draw_words = np.zeros((num_rows, NUM_DRAW_WORDS), np.int32)
        """The options below that a kernel draws by, side by side: one gather brings them all."""
        floats = self.draw_words.view(np.float32)
        self.temperature, self.top_p, self.min_p = floats[:, 0], floats[:, 1], floats[:, 2]
        self.top_k = self.draw_words[:, 3]
        self.seed = self.draw_words[:, 4:].view(np.uint64)[:, 0]
        self.top_p[:] = 1
        self.typical_p = np.ones(num_rows, np.float32)
        self.repetition_penalty = np.ones(num_rows, np.float32)
        self.presence_penalty = np.zeros(num_rows, np.float32)
        self.frequency_penalty = np.zeros(num_rows, np.float32)
        self.min_tokens = np.zeros(num_rows, np.int32)
        self.num_biased = np.zeros(num_rows, np.int32)
        """How many of a row's `biased_ids` and `biases` count; the others are 0."""
        self.biased_ids = np.zeros((num_rows, MAX_LOGIT_BIAS), np.int32)
        self.biases = np.zeros((num_rows, MAX_LOGIT_BIAS), np.float32)
        self.num_banned = np.zeros(num_rows, np.int32)
        self.banned = np.full((num_rows, MAX_BANNED, MAX_BAD_WORD_TOKENS), NOTHING, np.int32)
        """Token sequences that end at the right, with `NOTHING` before them."""
        self.longest_banned = np.zeros(num_rows, np.int32)
        self.num_logprobs = np.full(num_rows, -1, np.int32)
        self.num_prompt_logprobs = np.full(num_rows, -1, np.int32)
        self.is_guided = np.zeros(num_rows, np.bool_)
        """Whether a grammar holds the row: its last token must be known before the next."""
        self.has_penalty = np.zeros(num_rows, np.bool_)
        self.changes_logits = np.zeros(num_rows, np.bool_)
        """Whether there is a penalty, bias, ban, `min_tokens` or a grammar."""
        self.is_drawable = np.ones(num_rows, np.bool_)
        """Whether a kernel that knows `draw_words` and the model's logits alone can draw."""
        self.is_plain = np.ones(num_rows, np.bool_)
        """Whether the most likely tokens are all that is asked for."""

    def write(self, row: int, request: Submit) -> None:
        """Take over the options of `request`."""
        for name in ("temperature", "top_p", "top_k", "min_p", "typical_p", "seed", "min_tokens",
                     "repetition_penalty", "presence_penalty", "frequency_penalty",
                     "num_logprobs", "num_prompt_logprobs"):
            getattr(self, name)[row] = getattr(request, name)
        self._write_bias(row, request)
        self._write_banned(row, request)
        self.is_guided[row] = request.guide is not None
        self.has_penalty[row] = (request.repetition_penalty != 1 or request.presence_penalty != 0
                                 or request.frequency_penalty != 0)
        self.changes_logits[row] = (self.has_penalty[row] or request.min_tokens > 0
                                    or self.num_biased[row] > 0 or self.num_banned[row] > 0
                                    or self.is_guided[row])
        self.is_drawable[row] = (request.typical_p == 1 and not self.changes_logits[row]
                                 and request.num_logprobs < 0 and request.num_prompt_logprobs < 0)
        self.is_plain[row] = request.temperature == 0 and self.is_drawable[row]

    def penalties(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """Repetition, presence and frequency penalty of `rows`, float32 [n, 3]."""
        return np.stack((self.repetition_penalty[rows], self.presence_penalty[rows],
                         self.frequency_penalty[rows]), axis=1)

    def _write_bias(self, row: int, request: Submit) -> None:
        count = len(request.logit_bias)
        self.num_biased[row] = count
        self.biased_ids[row] = self.biases[row] = 0
        self.biased_ids[row, :count] = [token_id for token_id, _ in request.logit_bias]
        self.biases[row, :count] = [bias for _, bias in request.logit_bias]

    def _write_banned(self, row: int, request: Submit) -> None:
        count = len(request.banned)
        self.num_banned[row] = count
        self.longest_banned[row] = max(map(len, request.banned), default=0)
        self.banned[row] = NOTHING
        for place, ids in enumerate(request.banned):
            self.banned[row, place, -len(ids):] = ids
