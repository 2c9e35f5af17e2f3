"""Which clients have hung up: Triton tells only those who ask, which takes 0.1 ms a client."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable

from tritonlm.backend.generation import Generation

INTERVAL_S = 0.1
"""Between two questions about a client, while there is time to ask about all."""
SLICE_S = 0.005
"""For which nothing is sent at most."""
MAX_SHARE = 0.25
"""Of the time of the thread that asks, which is the one that sends.

With 0.1 ms a client that is 250 clients every 0.1 s, or 500 every 0.2 s.
"""


class HangUps:
    """Asks about one client after the other, a few at a time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._to_ask: deque[Generation] = deque()
        self._began_s = 0.0
        self.due_s = 0.0
        """When to ask on."""

    def find(self, unfinished: Iterable[Generation]) -> list[Generation]:
        """Those found now to be abandoned, if it is time to ask about those `unfinished`."""
        now_s = self._clock()
        if now_s < self.due_s:
            return []
        if not self._to_ask:
            self._to_ask.extend(unfinished)
            self._began_s = now_s
        found = []
        while self._to_ask and self._clock() - now_s < SLICE_S:
            generation = self._to_ask.popleft()
            if not generation.answer.is_finished and generation.answer.is_abandoned():
                found.append(generation)
        self.due_s = now_s + (self._clock() - now_s) / MAX_SHARE
        if not self._to_ask:
            self.due_s = max(self.due_s, self._began_s + INTERVAL_S)
        return found
