"""Whole bodies of answers from the cache: those of tasks, which are always the same."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tritonlm.caching import metrics
from tritonlm.caching.flights import Reader
from tritonlm.caching.response_cache import ResponseCache
from tritonlm.gateway.cache_key import FORMAT, SAME_ANSWER
from tritonlm.gateway.cached_answers import HEADER, AnswerCache
from tritonlm.gateway.connected import while_connected
from tritonlm.gateway.fleet import Fleet
from tritonlm.gateway.task_rows import TaskBody
from tritonlm.gateway.usage import Usage

Compute = Callable[[], Awaitable[dict[str, Any]]]


class _Tokens(msgspec.Struct):
    prompt_tokens: int


class _Counted(msgspec.Struct):
    """What a body says of tokens."""

    usage: _Tokens


class BodySource:
    """The body of equal requests."""

    def __init__(self, cache: ResponseCache, key: str, compute: Compute) -> None:
        self._cache = cache
        self._key = key
        self._compute = compute

    async def find(self) -> list[bytes] | None:
        """What the cache has."""
        stored = await self._cache.get(self._key)
        return None if stored is None else [stored]

    async def run(self) -> AsyncIterator[list[bytes]]:
        """What the servers answer."""
        yield [msgspec.json.encode(await self._compute())]

    async def keep(self, items: list[bytes]) -> None:
        """Put it into the cache."""
        await self._cache.put(self._key, items[0])


async def task_response(
    request: Request, fleet: Fleet, body: TaskBody, compute: Compute, usage: Usage
) -> Response:
    """The answer to `body`: what `compute` gives, or has given; raises `ServingError`."""
    cache: AnswerCache | None = request.state.cache
    identity = fleet.identity(body.model)
    if cache is None or not identity or not request.state.is_cache_wanted:
        told = await while_connected(request.receive, _awaited(compute))
        if cache is not None:
            metrics.REQUESTS.labels("bypass").inc()
        return _json(msgspec.json.encode(told), None if cache is None else "bypass")
    key = _key(request.url.path, identity, body)
    flight = key, body.priority, body.timeout_ms
    reader = Reader(cache.bodies, flight, BodySource(cache.levels, key, compute))
    try:
        [raw] = await while_connected(request.receive, reader.__anext__())
    finally:
        reader.close()
    usage.count_input(msgspec.json.decode(raw, type=_Counted).usage.prompt_tokens)
    metrics.REQUESTS.labels(reader.outcome).inc()
    return _json(raw, reader.outcome)


async def _awaited(compute: Compute) -> dict[str, Any]:
    return await compute()


def _json(raw: bytes, outcome: str | None) -> Response:
    headers = {HEADER: outcome} if outcome else None
    return Response(raw, headers=headers, media_type="application/json")


def _key(path: str, identity: list[str], body: TaskBody) -> str:
    asked = {name: value for name, value in msgspec.to_builtins(body).items()
             if name not in SAME_ANSWER}
    return hashlib.sha256(msgspec.msgpack.encode(
        (FORMAT, path, identity, sorted(asked.items())))).hexdigest()
