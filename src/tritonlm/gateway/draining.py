"""A worker that is told to stop lets the requests on WebSockets finish first.

uvicorn waits for HTTP requests by itself, but closes WebSockets at once.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

POLL_INTERVAL_S = 0.05


class Draining:
    """Holds back the first signal to stop until there is nothing more to do, or time is up."""

    def __init__(self, num_requests: Callable[[], int], timeout_s: float) -> None:
        self.has_begun = False
        self._num_requests = num_requests
        self._timeout_s = timeout_s
        self._waiting: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Stand before the signals' handlers, which are uvicorn's by now."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            stop = signal.getsignal(number)
            if callable(stop):
                signal.signal(number, self._handler(stop, loop))

    def _handler(self, stop: Callable[[int, Any], Any], loop: asyncio.AbstractEventLoop) -> Any:
        def handle(number: int, frame: FrameType | None) -> None:
            if self.has_begun:  # a second one means now
                stop(number, frame)
            self.has_begun = True
            loop.call_soon_threadsafe(begin, number)

        def begin(number: int) -> None:
            self._waiting = self._waiting or loop.create_task(self._wait(stop, number))

        return handle

    async def _wait(self, stop: Callable[[int, Any], Any], number: int) -> None:
        due_s = asyncio.get_running_loop().time() + self._timeout_s
        while self._num_requests() and asyncio.get_running_loop().time() < due_s:
            await asyncio.sleep(POLL_INTERVAL_S)
        stop(number, None)
