"""The time that a request has, over all its tries."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from tritonlm_client.errors import DeadlineExceeded

MAX_MS = 2**31 - 1


class Deadline:
    """Counts down from when it is made; without a `timeout_s` it never comes."""

    def __init__(
        self, timeout_s: float | None, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._timeout_s = None if timeout_s == math.inf else timeout_s
        self._clock_s = clock_s
        self._due_s = math.inf if timeout_s is None else clock_s() + timeout_s

    @property
    def remaining_s(self) -> float | None:
        """None if there is no end to it; raises `DeadlineExceeded` if nothing is left."""
        if self._timeout_s is None:
            return None
        if self.is_within(0):
            return self._due_s - self._clock_s()
        raise self.exceeded()

    def is_within(self, wait_s: float) -> bool:
        """Whether there is time left after a wait."""
        return self._clock_s() + wait_s < self._due_s

    def timeout_ms(self, asked_ms: int | None) -> int | None:
        """What to tell a server: the sooner of what is left and what its user asked for."""
        remaining_s = self.remaining_s
        if remaining_s is None:
            return asked_ms
        remaining_ms = min(max(1, math.ceil(1000 * remaining_s)), MAX_MS)
        return remaining_ms if asked_ms is None else min(remaining_ms, asked_ms)

    def exceeded(self) -> DeadlineExceeded:
        """The error of an answer that is not there in time."""
        return DeadlineExceeded(f"Deadline exceeded: there is no whole answer after "
                                f"{self._timeout_s:g} s")
