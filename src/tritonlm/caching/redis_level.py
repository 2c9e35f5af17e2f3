"""A level that several gateways share: a Redis server."""

from __future__ import annotations

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

TIMEOUT_S = 0.25
"""How long a request waits for Redis before it goes on without."""
PREFIX = "tritonlm:"


class RedisLevel:
    """Keeps values in Redis, whose own settings say how much (`maxmemory`, `maxmemory-policy`)."""

    name = "redis"

    def __init__(self, url: str) -> None:
        """`url` is redis://HOST:PORT/DB, rediss:// or unix://; it need not answer yet."""
        self._redis = Redis.from_url(
            url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S,
            retry=Retry(NoBackoff(), 0))

    async def get(self, key: str) -> bytes | None:
        """The value of `key`; None if there is none."""
        value = await self._redis.get(PREFIX + key)
        assert not isinstance(value, str)  # it would have to be asked for
        return value

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keep `value` for `ttl_s` seconds at most."""
        await self._redis.set(PREFIX + key, value, px=max(1, round(ttl_s * 1000)))

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()
