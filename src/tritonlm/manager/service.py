"""The manager at a TCP port: a line of JSON for each call, and one for each answer.

A connection may have many calls under way. Leases end with the connection that has them, so that
a process that dies uses nothing any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from tritonlm.errors import InvalidArgument, ServingError
from tritonlm.manager.keep_alive import keep_alive
from tritonlm.manager.manager import Manager
from tritonlm.manager.messages import MAX_LINE_BYTES, Answer, Call, ManagerStatus


@asynccontextmanager
async def listening(manager: Manager, host: str, port: int) -> AsyncIterator[int]:
    """Answer calls until the context ends; gives the port, which is a free one for 0."""
    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        keep_alive(writer)
        task = asyncio.create_task(_Connection(manager, writer).run(reader))
        connections.add(task)
        task.add_done_callback(connections.discard)

    server = await asyncio.start_server(serve, host, port, limit=MAX_LINE_BYTES)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tuple(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


class _Connection:
    """The calls of one client."""

    def __init__(self, manager: Manager, writer: asyncio.StreamWriter) -> None:
        self._manager = manager
        self._writer = writer
        self._running: dict[int, asyncio.Task[None]] = {}
        self._leases: dict[int, int] = {}
        """The manager's leases, by the ids of the calls that got them."""

    async def run(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                self._take(msgspec.json.decode(line, type=Call))
        except (msgspec.DecodeError, ValueError, OSError) as error:
            self._send(Answer(0, InvalidArgument("call", "(not shown)", str(error)).coded_message))
        finally:
            for task in tuple(self._running.values()):
                task.cancel()
            for lease in self._leases.values():
                self._manager.release(lease)
            self._leases.clear()
            self._writer.close()

    def _take(self, call: Call) -> None:
        if call.verb != "release":
            task = asyncio.create_task(self._answer(call))
            self._running[call.id] = task
            task.add_done_callback(lambda _: self._running.pop(call.id, None))
        elif call.id in self._leases:
            self._manager.release(self._leases.pop(call.id))
        elif call.id in self._running:
            self._running[call.id].cancel()

    async def _answer(self, call: Call) -> None:
        try:
            status = await self._do(call)
        except ServingError as error:
            self._send(Answer(call.id, error.coded_message))
        except Exception as error:
            self._send(Answer(call.id, ServingError(f"the manager failed: {error}").coded_message))
            raise
        else:
            self._send(Answer(call.id, status=status))

    async def _do(self, call: Call) -> ManagerStatus | None:
        if call.verb == "status":
            return await self._manager.status()
        if call.verb == "lease":
            self._leases[call.id] = await self._manager.lease(call.model, call.request_id)
        else:
            await getattr(self._manager, call.verb)(call.model)
        return None

    def _send(self, answer: Answer) -> None:
        if not self._writer.is_closing():
            self._writer.write(msgspec.json.encode(answer) + b"\n")
