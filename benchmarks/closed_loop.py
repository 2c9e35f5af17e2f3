"""A closed loop of requests around an engine, and when each of their tokens came."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tritonlm.engine.messages import Failed, Submit, Tokens

OWNER = 0


class StepNews(Protocol):
    """What `tritonlm.engine.engine.News` has."""

    def by_owner(self) -> Iterable[tuple[int, Tokens | Failed]]:
        """A message for each front end."""


class SteppedEngine(Protocol):
    """What a loop needs of `tritonlm.engine.engine.Engine`."""

    def submit(self, owner: int, request: Submit) -> None:
        """Queue `request`."""

    def step(self) -> Sequence[StepNews]:
        """Run one batch; returns what happened."""


@dataclass(frozen=True)
class Timeline:
    """What became of n requests; columns by key, [n]. NaN, or step -1: it did not happen."""

    submitted_s: NDArray[np.float64]
    first_s: NDArray[np.float64]
    last_s: NDArray[np.float64]
    submitted_step: NDArray[np.int64]
    first_step: NDArray[np.int64]
    num_tokens: NDArray[np.int64]

    @classmethod
    def empty(cls, num_requests: int) -> Timeline:
        """A timeline on which nothing has happened."""
        nan = np.full(num_requests, np.nan)
        return cls(nan, nan.copy(), nan.copy(), np.full(num_requests, -1),
                   np.full(num_requests, -1), np.zeros(num_requests, np.int64))


class ClosedLoop:
    """Keeps `concurrency` of `requests` in an engine until all are done.

    `interjected` requests come out of turn, before the steps of these numbers. The keys of all
    requests count from 0, in this order. A failed step raises RuntimeError.
    """

    def __init__(
        self,
        engine: SteppedEngine,
        requests: Sequence[Submit],
        concurrency: int,
        interjected: Mapping[int, Submit] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._queue = iter(requests)
        self._interjected = interjected or {}
        self._num_free = concurrency
        self.num_left = len(requests)
        """Of `requests`, those that are not done."""
        self._num_requests = len(requests)
        self.num_steps = 0
        self.timeline = Timeline.empty(len(requests) + len(self._interjected))

    def run(self, on_end: Callable[[int], None] = lambda num_ended: None) -> Timeline:
        """Step until all requests are done; `on_end` hears how many a step has finished."""
        while self.num_left:
            num_ended = self._step()
            if num_ended:
                on_end(num_ended)
        return self.timeline

    def _step(self) -> int:
        """Submit what is due and run one step; how many of `requests` it has finished."""
        self._submit_due()
        news_of_step = self._engine.step()
        now_s = self._clock()
        num_ended = sum(self._take(message, now_s) for news in news_of_step
                        for _owner, message in news.by_owner())
        self.num_steps += 1
        self._num_free += num_ended
        self.num_left -= num_ended
        return num_ended

    def _submit_due(self) -> None:
        if self.num_steps in self._interjected:
            self._submit(self._interjected[self.num_steps])
        while self._num_free:
            request = next(self._queue, None)
            if request is None:
                return
            self._submit(request)
            self._num_free -= 1

    def _submit(self, request: Submit) -> None:
        self.timeline.submitted_s[request.key] = self._clock()
        self.timeline.submitted_step[request.key] = self.num_steps
        self._engine.submit(OWNER, request)

    def _take(self, message: Tokens | Failed, now_s: float) -> int:
        if isinstance(message, Failed):
            raise RuntimeError(f"a step failed: {message.message}")
        keys, token_ids, reasons = message.arrays()
        times, with_token = self.timeline, keys[token_ids >= 0]
        first = with_token[times.num_tokens[with_token] == 0]
        times.first_s[first] = now_s
        times.first_step[first] = self.num_steps
        times.last_s[with_token] = now_s
        times.num_tokens[with_token] += 1
        return int(np.count_nonzero((reasons != 0) & (keys < self._num_requests)))
