"""Requests of random lengths with random options, of which some are cancelled at random."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tritonlm.engine.engine import Engine, News
from tritonlm.engine.messages import NUM_PRIORITIES, Submit

MAX_PROMPT_TOKENS, MAX_OUTPUT_TOKENS = 64, 16
OPTIONS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 0.0, "num_logprobs": 2, "num_prompt_logprobs": 1},
    {"temperature": 0.8, "top_k": 20, "top_p": 0.9},
    {"min_p": 0.05, "typical_p": 0.9},
    {"repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.5},
    {"logit_bias": ((7, 5.0), (9, -100.0)), "banned": ((11,), (5, 6)), "min_tokens": 4},
)
CANCELLED_SHARE = 0.1
"""Of all requests, those that are cancelled if they are not over by then."""
NUM_USERS = 5


def random_requests(count: int, vocab_size: int, seed: int) -> list[Submit]:
    """Requests of all lengths up to the most; every set of `OPTIONS`, class and user."""
    random = np.random.default_rng(seed)
    requests = []
    for key in range(count):
        prompt = random.integers(0, vocab_size, random.integers(1, MAX_PROMPT_TOKENS + 1))
        requests.append(Submit(
            key, f"request {key}", prompt.astype(np.int32).tobytes(),
            int(random.integers(1, MAX_OUTPUT_TOKENS + 1)), seed=key,
            priority=int(random.integers(NUM_PRIORITIES)), user=f"user {key % NUM_USERS}",
            ignore_eos=True, **OPTIONS[random.integers(len(OPTIONS))]))
    return requests


class ImpatientClients:
    """An engine whose clients cancel requests, some of which are over by then."""

    def __init__(self, engine: Engine, seed: int) -> None:
        self.num_cancelled = 0
        self._engine = engine
        self._random = np.random.default_rng(seed)
        self._doomed: list[str] = []

    def submit(self, owner: int, request: Submit) -> None:
        """Queue `request`, which may be cancelled later."""
        self._engine.submit(owner, request)
        if self._random.random() < CANCELLED_SHARE:
            self._doomed.append(request.request_id)

    def step(self) -> Sequence[News]:
        """Run one batch, and cancel one request now and then."""
        news = self._engine.step()
        if self._doomed and self._random.random() < 0.5:
            chosen = self._doomed.pop(self._random.integers(len(self._doomed)))
            cancelled = self._engine.cancel_by_id(chosen)
            self.num_cancelled += cancelled.keys.size
            news.append(cancelled)
        return news
