"""Ejection of servers that fail, and their return."""

from __future__ import annotations

import time
from collections.abc import Callable

MAX_FAILURES = 3
"""In a row, of a server that was well."""
MIN_EJECTION_S = 1.0
MAX_EJECTION_S = 60.0


class Health:
    """Counts how a server's requests began: a circuit breaker.

    One that fails too often gets none for a while. Then one more failure ejects it again, for twice
    as long, and one success makes it well.
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._num_failures = 0
        self._ejection_s = MIN_EJECTION_S
        self._return_s = 0.0
        self._is_on_trial = False
        self.num_ejections = 0

    @property
    def is_ejected(self) -> bool:
        """Whether it gets no requests now."""
        return self.remaining_s > 0

    @property
    def remaining_s(self) -> float:
        """How long it gets none."""
        return max(0.0, self._return_s - self._clock_s())

    def begin(self) -> None:
        """It is given a request; the first after an ejection is a trial, and others wait for it."""
        if self._num_failures >= MAX_FAILURES and not self.is_ejected:
            self._is_on_trial = True
            self._return_s = self._clock_s() + self._ejection_s

    def succeed(self) -> None:
        """A request has begun as it should."""
        self._num_failures = 0
        self._ejection_s = MIN_EJECTION_S
        self._return_s = 0.0
        self._is_on_trial = False

    def fail(self) -> None:
        """A request has failed through the server's fault."""
        self._num_failures += 1
        may_eject = self._is_on_trial or not self.is_ejected
        if self._num_failures >= MAX_FAILURES and may_eject:
            self._is_on_trial = False
            self._return_s = self._clock_s() + self._ejection_s
            self._ejection_s = min(2 * self._ejection_s, MAX_EJECTION_S)
            self.num_ejections += 1
