"""Clients that leave unread what is sent to them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

from tritonlm.gateway.failures import SlowReader


class ReadWatch:
    """Ends the work for a client that does not read: a message to it is not taken for `limit_s`.

    One timer looks after a whole stream, since one for each message would cost more than sending
    it.
    """

    def __init__(self, limit_s: float, give_up: Callable[[SlowReader], None]) -> None:
        """`give_up` is called once a stall; what it is given is for the client, should it read."""
        self._limit_s = limit_s
        self._give_up = give_up
        self._loop = asyncio.get_running_loop()
        self._began_s = math.inf
        """When the message was begun that is being sent."""
        self._timer = self._loop.call_later(limit_s, self._look)

    async def sent(self, sending: Awaitable[None]) -> None:
        """Return when a message is on its way."""
        self._began_s = self._loop.time()
        await sending
        self._began_s = math.inf

    def close(self) -> None:
        """The stream is over."""
        self._timer.cancel()

    def _look(self) -> None:
        waited_s = max(self._loop.time() - self._began_s, 0)
        if waited_s >= self._limit_s:
            self._give_up(SlowReader(
                f"nothing was read for slow_reader_timeout_s, {self._limit_s:g} s"))
            self._began_s, waited_s = math.inf, 0
        self._timer = self._loop.call_later(self._limit_s - waited_s, self._look)
