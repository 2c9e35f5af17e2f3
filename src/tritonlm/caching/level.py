"""A place where answers are kept."""

from __future__ import annotations

from typing import Protocol


class Level(Protocol):
    """Keeps values by key, each until it is out of time or there is no room; may raise anything."""

    name: str

    async def get(self, key: str) -> bytes | None:
        """The value of `key`; None if there is none."""

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keep `value` for `ttl_s` seconds at most."""

    async def close(self) -> None:
        """Let go of connections and files."""
