"""A level that outlives its process: a folder, which workers of one machine share."""

from __future__ import annotations

import asyncio
from functools import cached_property
from pathlib import Path

from diskcache import Cache

TIMEOUT_S = 1.0
"""How long a request waits for others that write."""


class DiskLevel:
    """Keeps at most about `max_bytes` in `folder`; what was not asked for longest goes first."""

    name = "disk"

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """`folder` is made when it is first used, and may be damaged then."""
        self._folder = folder
        self._max_bytes = max_bytes

    @cached_property
    def _cache(self) -> Cache:
        return Cache(str(self._folder), TIMEOUT_S, size_limit=self._max_bytes,
                     eviction_policy="least-recently-used")

    async def get(self, key: str) -> bytes | None:
        """The value of `key`; None if there is none."""
        value: bytes | None = await asyncio.to_thread(lambda: self._cache.get(key))
        return value

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keep `value` for `ttl_s` seconds at most."""
        await asyncio.to_thread(lambda: self._cache.set(key, value, expire=ttl_s))

    async def close(self) -> None:
        """Close the files."""
        await asyncio.to_thread(self._cache.close)
