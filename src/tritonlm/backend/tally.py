"""Numbers that come up many times a second, added up until somebody asks for them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence


class Counter:
    """A number that grows."""

    def __init__(self) -> None:
        self._pending = 0.0

    def add(self, amount: float = 1) -> None:
        """Count `amount` more."""
        self._pending += amount

    def take(self) -> float:
        """What has come since the last call."""
        pending, self._pending = self._pending, 0.0
        return pending


class Histogram:
    """How many values were at most each of `bounds`, and all of them together."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self._counts = [0.0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, weight: float = 1) -> None:
        """Count `value`, `weight` times."""
        self._counts[bisect_left(self.bounds, value)] += weight
        self._sum += value * weight

    def add(self, counts: Sequence[float], total: float) -> None:
        """Count values whose numbers between the bounds are known, and their sum."""
        self._counts = [mine + other for mine, other in zip(self._counts, counts, strict=True)]
        self._sum += total

    def take(self) -> tuple[list[float], float]:
        """Since the last call: how many were at most each bound, and at all; and their sum."""
        taken = list(_running_sum(self._counts)), self._sum
        self._counts, self._sum = [0.0] * len(self._counts), 0.0
        return taken


class Monotonic:
    """A number that somebody else counts, from 0 again whenever they are started."""

    def __init__(self) -> None:
        self._last = 0.0

    def growth(self, value: float) -> float:
        """How much it has grown since the last call."""
        growth = value - self._last if value >= self._last else value
        self._last = value
        return growth


def _running_sum(values: Sequence[float]) -> Iterator[float]:
    total = 0.0
    for value in values:
        total += value
        yield total
