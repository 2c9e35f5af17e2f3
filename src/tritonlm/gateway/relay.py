"""A WebSocket whose session another worker has: what is said on it passes through to that one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, unquote

import uvicorn
import websockets
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from tritonlm.gateway.access import Caller
from tritonlm.gateway.keys import ApiKey
from tritonlm.gateway.session import owner_of

KEY_HEADER = "x-key-name"
"""Whose the socket is: the worker that accepted it has seen the key."""
CLEAN_CLOSE = 1000
RESTART_CLOSE = 1012
NO_CODES = {None, 1005, 1006}
"""Of a connection that was lost, which cannot be sent."""


class Relay:
    """Listens in a folder that all workers have, and reaches the others there."""

    def __init__(self, folder: Path, serve: Callable[[WebSocket], Awaitable[None]]) -> None:
        """`serve` is what is done with a socket whose session is here."""
        self._folder = folder
        self._serve = serve
        self._listener = _Listener(uvicorn.Config(
            self._accept, interface="asgi3", uds=str(self._path(os.getpid())), lifespan="off",
            log_config=None, proxy_headers=False,
            ws="websockets-sansio", ws_per_message_deflate=False, ws_max_size=2**62))
        self._listening: asyncio.Task[None] | None = None
        self.num_passed = 0
        """Sockets that pass through here now."""

    async def start(self) -> None:
        """Listen from now on."""
        self._listening = asyncio.create_task(self._listener.serve())
        while not (self._listener.started or self._listening.done()):
            await asyncio.sleep(0.005)

    async def close(self) -> None:
        """Close what other workers have passed on to here, and listen no more."""
        self._listener.should_exit = True
        if self._listening is not None:
            await asyncio.wait([self._listening])
        self._path(os.getpid()).unlink(missing_ok=True)

    def leads_to(self, token: str) -> bool:
        """Whether another worker, which is there, has the session of that token."""
        owner = owner_of(token)
        return owner not in {None, os.getpid()} and self._path(owner).exists()

    async def pass_on(self, socket: WebSocket, token: str) -> None:
        """Serve `socket` at the worker that has its session."""
        key = socket.state.caller.key
        try:
            other = await websockets.unix_connect(
                str(self._path(owner_of(token))), f"ws://worker/ws?{socket.url.query}",
                additional_headers={KEY_HEADER: quote(key.name) if key else ""}, max_size=None,
                compression=None, ping_interval=None)
        except (OSError, websockets.InvalidHandshake):  # that worker is gone, its sessions too
            await self._serve(socket)
            return
        self.num_passed += 1
        try:
            async with other:
                await socket.accept()
                await _until_one_ends(_listen(socket, other), _speak(socket, other))
        finally:
            self.num_passed -= 1

    async def _accept(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            return
        socket = WebSocket(scope, receive, send)
        name = unquote(socket.headers.get(KEY_HEADER, ""))
        socket.state.caller = Caller(ApiKey(name) if name else None)
        await self._serve(socket)

    def _path(self, pid: int | None) -> Path:
        return self._folder / f"{pid}.sock"


class _Listener(uvicorn.Server):
    """One beside the worker's own, which hears the signals."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _until_one_ends(*works: Awaitable[None]) -> None:
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _listen(socket: WebSocket, other: websockets.ClientConnection) -> None:
    """Pass on what the client says; how it leaves tells whether it will be back."""
    try:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message["code"])
            text = message.get("text")
            await other.send(message["bytes"] if text is None else text)
    except WebSocketDisconnect as end:
        if end.code == CLEAN_CLOSE:
            await other.close(CLEAN_CLOSE)
        else:
            other.transport.abort()
    except websockets.ConnectionClosed:  # the other half tells the client
        await asyncio.Event().wait()


async def _speak(socket: WebSocket, other: websockets.ClientConnection) -> None:
    """Pass on what the worker says, and how it ends."""
    try:
        while True:
            await socket.send_text(str(await other.recv(decode=True)))
    except websockets.ConnectionClosed:
        code = RESTART_CLOSE if other.close_code in NO_CODES else other.close_code
        if socket.client_state is WebSocketState.CONNECTED:
            await socket.close(code or RESTART_CLOSE, other.close_reason)
    except WebSocketDisconnect:  # the other half has seen it, or will
        await asyncio.Event().wait()
