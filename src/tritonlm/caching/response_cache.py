"""Several levels, the fastest first, as one cache."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Sequence
from zlib import crc32

from tritonlm.caching.guarded_level import GuardedLevel
from tritonlm.caching.level import Level

HEAD = struct.Struct("<dI")
"""Stands before each value: when it is out of time, in seconds since 1970, and its CRC-32."""


class ResponseCache:
    """What is found in a level is copied to those above it, and keeps its time to live."""

    def __init__(
        self, levels: Sequence[Level], ttl_s: float, clock_s: Callable[[], float] = time.time
    ) -> None:
        self._levels = [GuardedLevel(level) for level in levels]
        self._ttl_s = ttl_s
        self._clock_s = clock_s

    async def get(self, key: str) -> bytes | None:
        """The value of `key`; None if no level has it."""
        for place, level in enumerate(self._levels):
            entry = await level.get(key) or b""
            left_s = self._left_s(entry)
            if left_s > 0:
                for upper in self._levels[:place]:
                    await upper.put(key, entry, left_s)
                return entry[HEAD.size :]
        return None

    async def put(self, key: str, value: bytes) -> None:
        """Keep `value` in all levels."""
        entry = HEAD.pack(self._clock_s() + self._ttl_s, crc32(value)) + value
        for level in self._levels:
            await level.put(key, entry, self._ttl_s)

    async def close(self) -> None:
        """Close all levels."""
        for level in self._levels:
            await level.close()

    def _left_s(self, entry: bytes) -> float:
        """How long it may still be given out; nothing for one that is not whole."""
        if len(entry) < HEAD.size:
            return 0.0
        expires_s, checksum = HEAD.unpack_from(entry)
        is_whole = crc32(memoryview(entry)[HEAD.size :]) == checksum
        return float(expires_s - self._clock_s()) if is_whole else 0.0
