"""Waiting for what must come about."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeVar

Value = TypeVar("Value")
LIMIT_S = 60


def found(read: Callable[[], Value], is_enough: Callable[[Value], Any]) -> Value:
    """What `read` gives once that `is_enough`."""
    deadline_s = time.monotonic() + LIMIT_S
    while not is_enough(value := read()):
        assert time.monotonic() < deadline_s, value
        time.sleep(0.1)
    return value


async def until(is_so: Callable[[], bool], what: Any, limit_s: float = LIMIT_S) -> None:
    """Return once `is_so`; fail with `what` if that takes too long."""
    deadline_s = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < deadline_s, what() if callable(what) else what
        await asyncio.sleep(0.02)
