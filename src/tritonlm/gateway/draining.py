"""A worker that is told to stop lets running requests finish first, and tells those that do not.

uvicorn waits for HTTP requests by itself, but closes WebSockets at once, and cuts off what is not
over when its time is up.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from tritonlm.errors import Unavailable

POLL_INTERVAL_S = 0.05


class Draining:
    """Holds back the first signal to stop until sockets have no more to do, or time is up."""

    def __init__(self, timeout_s: float) -> None:
        self.has_begun = False
        self._timeout_s = timeout_s
        self._requests: set[asyncio.Task[Any]] = set()
        self._waiting: asyncio.Task[None] | None = None

    def start(self, num_on_sockets: Callable[[], int]) -> None:
        """Stand before the signals' handlers, which are uvicorn's by now.

        `num_on_sockets` tells how many requests run on WebSockets.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            stop = signal.getsignal(number)
            if callable(stop):
                signal.signal(number, self._handler(stop, loop, num_on_sockets))

    @contextmanager
    def within_time(self) -> Iterator[None]:
        """Cancel the current task, which answers an HTTP request, once time is up."""
        task = asyncio.current_task()
        assert task is not None
        self._requests.add(task)
        try:
            yield
        finally:
            self._requests.discard(task)

    def _handler(
        self, stop: Callable[[int, Any], Any], loop: asyncio.AbstractEventLoop,
        num_on_sockets: Callable[[], int],
    ) -> Any:
        def handle(number: int, frame: FrameType | None) -> None:
            if self.has_begun:  # a second one means now
                loop.call_soon_threadsafe(self._cancel_all)
                stop(number, frame)
            else:
                self.has_begun = True
                loop.call_soon_threadsafe(begin, number)

        def begin(number: int) -> None:
            loop.call_later(self._timeout_s, self._cancel_all)
            self._waiting = loop.create_task(
                self._wait(num_on_sockets, lambda: stop(number, None)))

        return handle

    async def _wait(self, num_on_sockets: Callable[[], int], stop: Callable[[], Any]) -> None:
        due_s = asyncio.get_running_loop().time() + self._timeout_s
        while num_on_sockets() and asyncio.get_running_loop().time() < due_s:
            await asyncio.sleep(POLL_INTERVAL_S)
        stop()

    def _cancel_all(self) -> None:
        for task in self._requests:
            task.cancel()


def stopping() -> Unavailable:
    """What clients are told whose requests come too late, or take too long."""
    return Unavailable("the gateway is stopping; retry later")
