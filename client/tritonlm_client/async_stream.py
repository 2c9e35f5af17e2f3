"""An answer that is coming, for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, suppress

from tenacity import AsyncRetrying

from tritonlm.errors import NotFound, Unavailable
from tritonlm_client.attempts import Attempts
from tritonlm_client.errors import DeadlineExceeded
from tritonlm_client.results import Chunk
from tritonlm_client.retry import Retry
from tritonlm_client.transport import AsyncTransport


class AsyncStream:
    """An answer that is coming: iterate over its chunks with `async for`, once.

    Leaving the loop early, the end of the task, `cancel`, and the end of an `async with` block
    all make the server stop.
    """

    def __init__(
        self, attempts: Attempts[AsyncTransport], models: Sequence[str], retry: Retry
    ) -> None:
        """`models` are tried one after the other."""
        self.request_id = attempts.request.id
        self.model = models[0]
        """The one that answers, once it does."""
        self._attempts = attempts
        self._models = models
        self._retry = retry
        self._rest: AsyncGenerator[Chunk, None]
        self._cancelled = asyncio.Event()
        attempts.open_ahead()

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        """The chunks as they come; raises `ServingError`."""
        num_more = self._retry.num_more_begins
        try:
            while True:
                try:
                    async with aclosing(self._chunks()) as chunks:
                        async for chunk in chunks:
                            yield chunk
                    return
                except DeadlineExceeded:
                    raise
                except Unavailable:
                    if not num_more:
                        raise
                num_more -= 1
        finally:
            await self.cancel()

    async def cancel(self) -> None:
        """Hang up: the server stops, and iteration ends without an error; any task may do it."""
        self._cancelled.set()
        attempt = self._attempts.current
        if attempt is not None:
            attempt.end()
            await attempt.call.cancel()

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cancel()

    async def _chunks(self) -> AsyncGenerator[Chunk, None]:
        first = await self._begin()
        if first is not None:
            async with aclosing(self._rest):
                yield self._attempts.checked(first)
                async for chunk in self._rest:
                    yield self._attempts.checked(chunk)

    async def _begin(self) -> Chunk | None:
        """The first chunk, from whichever model and server gives one."""
        rules = self._retry.rules(self._attempts.deadline, lambda: not self._cancelled.is_set())
        begin = AsyncRetrying(**rules, sleep=self._sleep)
        for model in self._models[:-1]:
            with suppress(Unavailable, NotFound):
                return await begin(self._first_chunk, model)
        return await begin(self._first_chunk, self._models[-1])

    async def _first_chunk(self, model: str) -> Chunk | None:
        if self._cancelled.is_set():
            return None
        for attempt in self._attempts.round(model):
            with attempt:
                self.model = model
                self._rest = aiter(self._attempts.open(attempt))
                if self._cancelled.is_set():  # it was meanwhile
                    await attempt.call.cancel()
                return await anext(self._rest, None)
        return None

    async def _sleep(self, wait_s: float) -> None:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._cancelled.wait(), wait_s)
