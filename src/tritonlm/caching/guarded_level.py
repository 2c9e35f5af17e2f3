"""A level whose failures no request feels."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tritonlm.caching import metrics
from tritonlm.caching.level import Level

LOG = logging.getLogger(__name__)
RETRY_S = 5.0
"""How long a level that has failed is left alone: each attempt may cost a request its timeout."""
T = TypeVar("T")


class GuardedLevel:
    """A level that, once it fails, has nothing for a while; failures are counted, logged once."""

    def __init__(self, level: Level, clock_s: Callable[[], float] = time.monotonic) -> None:
        self.name = level.name
        self._level = level
        self._clock_s = clock_s
        self._is_broken = False
        self._retry_s = 0.0

    async def get(self, key: str) -> bytes | None:
        """The value of `key`; None if there is none, or no telling."""
        value = await self._attempt(lambda: self._level.get(key))
        metrics.LOOKUPS.labels(self.name, "miss" if value is None else "hit").inc()
        return value

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keep `value` if that is possible."""
        await self._attempt(lambda: self._level.put(key, value, ttl_s))

    async def close(self) -> None:
        """Close the level."""
        self._retry_s = 0.0
        await self._attempt(self._level.close)

    async def _attempt(self, action: Callable[[], Awaitable[T]]) -> T | None:
        if self._clock_s() < self._retry_s:
            return None
        try:
            result = await action()
        except Exception as error:  # whatever its library raises: the answer is computed instead
            metrics.ERRORS.labels(self.name).inc()
            if not self._is_broken:
                LOG.warning("cache level %s failed, requests go on without it: %s", self.name,
                            error)
            self._is_broken, self._retry_s = True, self._clock_s() + RETRY_S
            return None
        if self._is_broken:
            LOG.warning("cache level %s works again", self.name)
            self._is_broken = False
        return result
