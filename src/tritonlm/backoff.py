"""How long to wait before starting again what has ended."""

from __future__ import annotations

STABLE_S = 10.0
"""What has run for so long was not broken from the start."""
MAX_PAUSE_S = 30.0


class Backoff:
    """Pauses that double while what is started ends soon."""

    def __init__(self, first_s: float) -> None:
        self._first_s = first_s
        self._next_s = first_s

    def pause_s(self, ran_s: float) -> float:
        """The pause after something that ran, and was of use, for `ran_s`."""
        if ran_s > STABLE_S:
            self._next_s = self._first_s
        pause_s, self._next_s = self._next_s, min(2 * self._next_s, MAX_PAUSE_S)
        return pause_s
