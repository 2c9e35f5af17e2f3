"""Single-flight: of equal work that is wanted at the same time, one runs and all read it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")


class Source(Protocol[T]):
    """Where the items of a flight come from."""

    async def find(self) -> list[T] | None:
        """All items, if they are known already."""

    def run(self) -> AsyncIterator[list[T]]:
        """Work for the items; gives those that have come since the last step."""

    async def keep(self, items: list[T]) -> None:
        """Take in what the work has come to, for those who ask later."""


class Flight(Generic[T]):
    """The items of a source, read by several as they come."""

    def __init__(self, source: Source[T], land: Callable[[Flight[T]], None]) -> None:
        """`land` is called when nobody can join any more."""
        self.items: list[T] = []
        self.was_known = False
        self.is_over = False
        self.error: Exception | None = None
        self.num_readers = 0
        self._changed = asyncio.Event()
        self.task = asyncio.create_task(self._run(source, land))

    async def change(self) -> None:
        """Return when there are more items, or none to come."""
        await self._changed.wait()

    async def _run(self, source: Source[T], land: Callable[[Flight[T]], None]) -> None:
        try:
            await self._fill(source)
            if not self.was_known and self.error is None:
                await source.keep(self.items)  # readers need not wait for it
        finally:
            land(self)

    async def _fill(self, source: Source[T]) -> None:
        try:
            known = await source.find()
            if known is not None:
                self.items, self.was_known = known, True
                return
            async for items in source.run():
                self.items += items
                self._tell()
        except Exception as error:
            self.error = error
        finally:
            self.is_over = True
            self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class Flights(Generic[T]):
    """What is under way, by key; belongs to one event loop."""

    def __init__(self) -> None:
        self._by_key: dict[Hashable, Flight[T]] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def join(self, key: Hashable, source: Source[T]) -> tuple[Flight[T], bool]:
        """The flight of `key`, and whether it is a new one; the caller calls `leave`."""
        is_new = key not in self._by_key
        if is_new:
            self._by_key[key] = Flight(source, lambda flight: self._land(key, flight))
        flight = self._by_key[key]
        flight.num_readers += 1
        return flight, is_new

    def leave(self, key: Hashable, flight: Flight[T]) -> None:
        """A reader has had enough; without readers the work ends."""
        flight.num_readers -= 1
        if not flight.num_readers and not flight.is_over:
            self._land(key, flight)
            flight.task.cancel()

    async def close(self) -> None:
        """End what runs; what is done is kept first."""
        tasks = [flight.task for flight in self._by_key.values()]
        for flight in self._by_key.values():
            if not flight.is_over:
                flight.task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _land(self, key: Hashable, flight: Flight[T]) -> None:
        if self._by_key.get(key) is flight:
            del self._by_key[key]


class Reader(Generic[T]):
    """Iterate over it once: each step gives the items that have come since the last.

    Where another reader's flight fails before anything of it was read, this one starts its own, or
    joins that of one who was quicker.
    """

    def __init__(self, flights: Flights[T], key: Hashable, source: Source[T]) -> None:
        self._flights = flights
        self._key = key
        self._source = source
        self._num_read = 0
        self.flight, self.is_first = flights.join(key, source)

    @property
    def outcome(self) -> str:
        """Where the items come from, once the first is there: hit, shared or miss."""
        if self.flight.was_known:
            return "hit"
        return "miss" if self.is_first else "shared"

    def close(self) -> None:
        """Leave the flight."""
        self._flights.leave(self._key, self.flight)

    def __aiter__(self) -> Reader[T]:
        return self

    async def __anext__(self) -> list[T]:
        """At least one item; raises what the source has raised."""
        while self._num_read == len(self.flight.items):
            if self.flight.error is not None:
                self._start_again(self.flight.error)
            elif self.flight.is_over:
                raise StopAsyncIteration
            else:
                await self.flight.change()
        items = self.flight.items[self._num_read :]
        self._num_read += len(items)
        return items

    def _start_again(self, error: Exception) -> None:
        if self.is_first or self._num_read:
            raise error
        self.close()
        self.flight, self.is_first = self._flights.join(self._key, self._source)
