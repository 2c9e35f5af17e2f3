"""Runs requests through an engine and gathers what each of them got."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from tritonlm.contract import FINISH_REASONS
from tritonlm.engine.engine import Engine
from tritonlm.engine.messages import Submit, Tokens


def submit(key: int, prompt: Sequence[int], max_tokens: int = 8, **options: object) -> Submit:
    options = {"temperature": 0.0, "request_id": f"request {key}", **options}
    return Submit(key, token_ids=np.array(prompt, np.int32).tobytes(), max_tokens=max_tokens,
                  **options)


class Outcomes:
    """Token ids and finish reasons by key."""

    def __init__(self) -> None:
        self.token_ids: dict[int, list[int]] = defaultdict(list)
        self.reasons: dict[int, str] = {}
        self.failures: dict[int, str] = {}
        self.logprobs: dict[int, dict[int, tuple[list[int], list[float]]]] = defaultdict(dict)
        """By key and position: the token and its alternatives, and their log probabilities."""

    def gather(self, news_of_a_step: list) -> None:
        for news in news_of_a_step:
            for _owner, message in news.by_owner():
                if not isinstance(message, Tokens):
                    for key in np.frombuffer(message.keys, np.int64).tolist():
                        self.failures[key] = message.message
                    continue
                self._gather_logprobs(message)
                for key, token_id, reason in zip(*map(np.ndarray.tolist, message.arrays()),
                                                 strict=True):
                    assert key not in self.reasons, "news after the end"
                    if token_id >= 0:
                        self.token_ids[key].append(token_id)
                    if reason:
                        self.reasons[key] = FINISH_REASONS[reason]

    def _gather_logprobs(self, message: Tokens) -> None:
        for measured in message.logprobs:
            for key, position, ids, values in zip(*measured.arrays(), strict=True):
                self.logprobs[key][position] = ids.tolist(), values.tolist()


def run_all(engine: Engine, arrivals: Mapping[int, Sequence[Submit]]) -> Outcomes:
    """Submit the requests of `arrivals` before the steps of these numbers; run until idle."""
    outcomes, step = Outcomes(), 0
    while engine.has_work or any(start >= step for start in arrivals):
        for request in arrivals.get(step, ()):
            engine.submit(0, request)
        outcomes.gather(engine.step())
        if engine.is_compiling:
            time.sleep(0.001)
        step += 1
        assert step < 10_000 or engine.is_compiling, "the engine does not come to an end"
    return outcomes
