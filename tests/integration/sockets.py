"""Clients of the gateway's WebSocket."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import websockets
from tests.drills.waiting import LIMIT_S


def open_socket(url, query):
    """It waits for 500 at once, and does not give up a server that is busy."""
    return websockets.connect(f"ws{url.removeprefix('http')}/ws{query}", open_timeout=LIMIT_S,
                              ping_interval=None)


@asynccontextmanager
async def connected(url, query=""):
    async with open_socket(url, query) as socket:
        hello = await hear(socket)
        assert hello["type"] == "session"
        socket.token = hello["session"]
        yield socket


async def say(socket, **message):
    await socket.send(json.dumps(message))


async def hear(socket):
    return json.loads(await asyncio.wait_for(socket.recv(), LIMIT_S))


async def hear_all(socket, num_requests, heard=None):
    """Texts by id, once every request is done."""
    texts: dict[str, str] = heard or {}
    while num_requests:
        message = await hear(socket)
        assert message["type"] in {"chunk", "done"}, message
        if message["type"] == "done":
            num_requests -= 1
        else:
            texts[message["id"]] = texts.get(message["id"], "") + message["text_output"]
    return texts
