"""Requests of random lengths with random options, of which some are cancelled at random."""

from __future__ import annotations

from collections import defaultdict
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
"""Of all requests, those that are to be cancelled; some of them are over by then."""
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
    """An engine whose clients cancel some of their requests, which may be over by then."""

    def __init__(self, engine: Engine, seed: int) -> None:
        self.num_cancelled = 0
        self._engine = engine
        self._random = np.random.default_rng(seed)
        self._num_steps = 0
        self._doomed: defaultdict[int, list[str]] = defaultdict(list)
        """Ids of requests by the step after which they are cancelled."""

    def submit(self, owner: int, request: Submit) -> None:
        """Queue `request`, which may be cancelled later."""
        self._engine.submit(owner, request)
        if self._random.random() < CANCELLED_SHARE:
            patience = int(self._random.integers(MAX_OUTPUT_TOKENS))
            self._doomed[self._num_steps + patience].append(request.request_id)

    def step(self) -> Sequence[News]:
        """Run one batch, and cancel what is due."""
        news = self._engine.step()
        for request_id in self._doomed.pop(self._num_steps, ()):
            cancelled = self._engine.cancel_by_id(request_id)
            self.num_cancelled += cancelled.keys.size
            news.append(cancelled)
        self._num_steps += 1
        return news
