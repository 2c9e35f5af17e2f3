"""A connection to a manager, for the gateway and for commands; belongs to one event loop."""

from __future__ import annotations

import asyncio
from types import TracebackType

import msgspec

from tritonlm.errors import ServingError, Unavailable, from_code
from tritonlm.manager.keep_alive import keep_alive
from tritonlm.manager.messages import MAX_LINE_BYTES, Answer, Call, ManagerStatus, Verb

CONNECT_TIMEOUT_S = 2.0


class Lease:
    """A model that stays loaded until `release`, which may be called twice."""

    def __init__(self, client: ManagerClient, call: Call) -> None:
        self._client = client
        self._call = call

    def release(self) -> None:
        """The model may go."""
        self._client.send_release(self._call)


class ManagerClient:
    """Calls of a manager; the connection is made when it is needed, again if it was lost."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._writer: asyncio.StreamWriter | None = None
        self._connecting = asyncio.Lock()
        self._reading: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._num_calls = 0

    async def lease(self, model: str, request_id: str = "") -> Lease:
        """Wait until the model is ready, and keep it so; raises `ServingError`.

        A lease is lost with its connection: whoever has it goes on without.
        """
        call = self._call("lease", model, request_id)
        try:
            await self._ask(call)
        except asyncio.CancelledError:
            self.send_release(call)
            raise
        return Lease(self, call)

    async def status(self) -> ManagerStatus:
        """All models; raises `Unavailable`."""
        answer = await self._ask(self._call("status"))
        if answer.status is None:
            raise ServingError("the manager has answered something else")
        return answer.status

    async def do(self, verb: Verb, model: str) -> None:
        """Load, unload, pin, unpin or reload a model; returns when it is done."""
        await self._ask(self._call(verb, model))

    def send_release(self, call: Call) -> None:
        """End the lease that `call` got or waits for."""
        if self._writer is not None and not self._writer.is_closing():
            self._send(self._writer, Call(call.id, "release"))

    async def close(self) -> None:
        """End the connection, and all leases with it."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])

    async def __aenter__(self) -> ManagerClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def _call(self, verb: Verb, model: str = "", request_id: str = "") -> Call:
        self._num_calls += 1
        return Call(self._num_calls, verb, model, request_id)

    async def _ask(self, call: Call) -> Answer:
        writer = await self._connected()
        future = asyncio.get_running_loop().create_future()
        self._waiting[call.id] = future
        try:
            self._send(writer, call)
            answer: Answer = await future
        finally:
            self._waiting.pop(call.id, None)
        if answer.error:
            code, _, message = answer.error.partition(": ")
            raise from_code(code, message)
        return answer

    async def _connected(self) -> asyncio.StreamWriter:
        async with self._connecting:
            if self._writer is not None:
                return self._writer
            try:
                reader, writer = await asyncio.wait_for(asyncio.open_connection(
                    self._host, self._port, limit=MAX_LINE_BYTES), CONNECT_TIMEOUT_S)
            except (OSError, asyncio.TimeoutError):
                raise Unavailable(f"no model manager answers at {self._host}:{self._port}; "
                                  "`tritonlm repo serve` starts one") from None
            keep_alive(writer)
            self._writer = writer
            self._reading = asyncio.create_task(self._read(reader, writer))
            return writer

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                answer = msgspec.json.decode(line, type=Answer)
                future = self._waiting.get(answer.id)
                if future is not None and not future.done():
                    future.set_result(answer)
        except (OSError, ValueError):
            pass
        finally:
            writer.close()
            self._writer = None
            lost = Unavailable("the model manager was lost; retry later")
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(lost)

    @staticmethod
    def _send(writer: asyncio.StreamWriter, call: Call) -> None:
        writer.write(msgspec.json.encode(call) + b"\n")
