"""How many users there are, by the time since the start."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

NUM_STEPS = 4
SPIKE = (0.4, 0.6)
"""From which to which part of the time."""
BASE_SHARE = 0.2
"""Of the users, those that are there before and after the spike."""
RAMP = 0.1
"""The part of the time in which a soak grows."""

Shape = Callable[[float, int], int]


def constant(_part: float, most: int) -> int:
    """All the time the same."""
    return most


def step(part: float, most: int) -> int:
    """More in equal steps, of equal length."""
    return ceil(most * (min(int(part * NUM_STEPS), NUM_STEPS - 1) + 1) / NUM_STEPS)


def spike(part: float, most: int) -> int:
    """A few, then suddenly all, then a few again."""
    return most if SPIKE[0] <= part < SPIKE[1] else ceil(most * BASE_SHARE)


def soak(part: float, most: int) -> int:
    """Slowly more, then for long the same."""
    return max(1, round(most * min(1.0, part / RAMP)))


SHAPES: dict[str, Shape] = {shape.__name__: shape for shape in (constant, step, spike, soak)}
"""Each takes the part of the time that is over, 0 to 1, and the most users."""
