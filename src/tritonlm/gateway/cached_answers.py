"""Answers from the cache, from an equal request that runs already, or from the servers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeAlias

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from tritonclient.grpc.service_pb2 import ModelInferRequest

from tritonlm.caching import metrics
from tritonlm.caching.flights import Flights, Reader
from tritonlm.caching.response_cache import ResponseCache
from tritonlm.errors import InvalidArgument, ServingError
from tritonlm.gateway.answers import Answers, joined
from tritonlm.gateway.cache_key import generation_key, urgency
from tritonlm.gateway.fleet import Fleet
from tritonlm.gateway.pieces import Piece

HEADER = "x-tritonlm-cache"
CUT_SHORT = frozenset({"cancelled", "deadline"})
NO_CACHE = frozenset({"no-cache", "no-store"})
Item: TypeAlias = tuple[int, Piece]


class AnswerCache:
    """What the requests to a worker share."""

    def __init__(self, cache: ResponseCache) -> None:
        self.levels = cache
        self.bodies: Flights[bytes] = Flights()
        self._answers: Flights[Item] = Flights()

    def open(
        self, fleet: Fleet, requests: Sequence[ModelInferRequest], priority: str, is_wanted: bool
    ) -> Answers | CachedAnswers:
        """The answers to `requests`; from the cache only if that `is_wanted`."""
        identity = fleet.identity(requests[0].model_name)
        key = generation_key(requests, identity)
        if key is None or not identity or not is_wanted:
            metrics.REQUESTS.labels("random" if is_wanted else "bypass").inc()
            return fleet.open(requests, priority)
        source = PieceSource(self.levels, key, lambda: fleet.open(requests, priority))
        return CachedAnswers(Reader(self._answers, (key, urgency(requests)), source))

    async def close(self) -> None:
        """End what runs, and close the levels."""
        await self._answers.close()
        await self.bodies.close()
        await self.levels.close()


class PieceSource:
    """The pieces of equal requests."""

    def __init__(self, cache: ResponseCache, key: str, open_answers: Callable[[], Answers]) -> None:
        self._cache = cache
        self._key = key
        self._open_answers = open_answers

    async def find(self) -> list[Item] | None:
        """What the cache has; None also if it cannot be read."""
        stored = await self._cache.get(self._key)
        try:
            return None if stored is None else msgspec.msgpack.decode(stored, type=list[Item])
        except msgspec.MsgspecError:
            return None

    async def run(self) -> AsyncIterator[list[Item]]:
        """What a server answers."""
        with self._open_answers() as answers:
            async for pieces in answers:
                yield pieces

    async def keep(self, items: list[Item]) -> None:
        """Put whole answers into the cache."""
        if not any(piece.finish_reason in CUT_SHORT for _, piece in items):
            await self._cache.put(self._key, msgspec.msgpack.encode(joined(items)))


class CachedAnswers:
    """To its reader as `Answers`; the work goes on while anybody reads it."""

    def __init__(self, reader: Reader[Item]) -> None:
        self._reader = reader
        self._is_counted = False
        self._given_up: ServingError | None = None

    @property
    def outcome(self) -> str:
        """Where the answers come from, once the first is there."""
        return self._reader.outcome

    def __aiter__(self) -> CachedAnswers:
        return self

    async def __anext__(self) -> list[Item]:
        """At least one piece; raises `ServingError`."""
        if self._given_up is not None:
            raise self._given_up
        items = await self._reader.__anext__()
        if not self._is_counted:
            self._is_counted = True
            metrics.REQUESTS.labels(self.outcome).inc()
        return joined(items)

    def __enter__(self) -> CachedAnswers:
        return self

    def __exit__(self, *_: object) -> None:
        if self._given_up is None:
            self._reader.close()

    def give_up(self, error: ServingError) -> None:
        """Read no more; the next step raises `error`. It is not called while one is awaited."""
        self._reader.close()
        self._given_up = error


def open_answers(
    request: Request, fleet: Fleet, requests: Sequence[ModelInferRequest], priority: str
) -> Answers | CachedAnswers:
    """The answers to the `requests` that a client's `request` makes; raises `ServingError`."""
    cache: AnswerCache | None = request.state.cache
    if cache is None:
        return fleet.open(requests, priority)
    return cache.open(fleet, requests, priority, request.state.is_cache_wanted)


def note_wish(request: Request, given: dict[str, Any]) -> None:
    """Take `cache` out of a body, and note whether its answer may come from the cache."""
    wish = given.pop("cache", True)
    if not isinstance(wish, bool):
        raise InvalidArgument("cache", wish, "allowed: true or false")
    directives = {text.strip().lower()
                  for text in request.headers.get("cache-control", "").split(",")}
    request.state.is_cache_wanted = wish and not directives & NO_CACHE


def tell_outcome(request: Request, response: Response, answers: Answers | CachedAnswers) -> None:
    """Say in a header where the answer is from, if there is a cache."""
    if request.state.cache is not None:
        response.headers[HEADER] = getattr(answers, "outcome", "bypass")
