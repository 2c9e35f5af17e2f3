"""Work for a client that is done only while the client is there."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from tritonlm.gateway.failures import ClientGone

T = TypeVar("T")


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns; once the client hangs up, `work` is cancelled and `ClientGone` raised.

    The body must have been read.
    """
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(receive())
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGone("the client hung up")
    finally:
        gone.cancel()
        working.cancel()
        await asyncio.wait({working, gone})
