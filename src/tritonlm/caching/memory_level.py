"""The first level: this process's memory."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from tritonlm.caching import metrics

ENTRY_BYTES = 300
"""Of Python's objects around a key and its value, about."""


class MemoryLevel:
    """Takes at most `max_bytes` of memory; what was not asked for longest goes first."""

    name = "memory"

    def __init__(self, max_bytes: int, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._clock_s = clock_s
        self._entries: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self._num_bytes = 0

    async def get(self, key: str) -> bytes | None:
        """The value of `key`; None if there is none."""
        if key not in self._entries:
            return None
        value, expires_s = self._entries[key]
        if self._clock_s() >= expires_s:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return value

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keep `value`; one that is larger than all the room is not kept."""
        self._drop(key)
        if _size(key, value) > self._max_bytes:
            return
        self._entries[key] = value, self._clock_s() + ttl_s
        self._num_bytes += _size(key, value)
        while self._num_bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))
        metrics.MEMORY_BYTES.set(self._num_bytes)

    async def close(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._num_bytes = 0
        metrics.MEMORY_BYTES.set(0)

    def _drop(self, key: str) -> None:
        if key in self._entries:
            value, _ = self._entries.pop(key)
            self._num_bytes -= _size(key, value)


def _size(key: str, value: bytes) -> int:
    return ENTRY_BYTES + len(key) + len(value)
