"""A level that outlives its process: a folder, which workers of one machine share."""

from __future__ import annotations

import asyncio
from pathlib import Path

from diskcache import Cache


class DiskLevel:
    """Keeps at most about `max_bytes` in `folder`; what was not asked for longest goes first."""

    name = "disk"

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """`folder` is made if it is not there; raises `OSError` if it cannot be."""
        self._cache = Cache(str(folder), size_limit=max_bytes,
                            eviction_policy="least-recently-used")

    async def get(self, key: str) -> bytes | None:
        """The value of `key`; None if there is none."""
        value: bytes | None = await asyncio.to_thread(self._cache.get, key)
        return value

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keep `value` for `ttl_s` seconds at most."""
        await asyncio.to_thread(self._cache.set, key, value, expire=ttl_s)

    async def close(self) -> None:
        """Close the files."""
        await asyncio.to_thread(self._cache.close)
