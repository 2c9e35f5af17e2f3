"""Connections that are used again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar


class Closes(Protocol):
    """What a pool holds."""

    def close(self) -> None:
        """Hang up."""


C = TypeVar("C", bound=Closes)


class Pool(Generic[C]):
    """Lends connections, each to one request at a time."""

    def __init__(self, connect: Callable[[], C]) -> None:
        self._connect = connect
        self._idle: list[C] = []

    @contextmanager
    def lend(self) -> Iterator[C]:
        """A connection, which is closed if its request does not end well."""
        connection = self._idle.pop() if self._idle else self._connect()
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)

    def close(self) -> None:
        """Close those that are not lent."""
        while self._idle:
            self._idle.pop().close()
