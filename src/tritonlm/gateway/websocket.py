"""`/ws`: many requests at once on one socket, as docs/websocket.md has it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any

import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect

from tritonlm.errors import InvalidArgument, NotFound, ServingError, Unavailable
from tritonlm.gateway import metrics, upstream
from tritonlm.gateway.access import Caller
from tritonlm.gateway.body import json_object, read_call
from tritonlm.gateway.failures import error_body, failure_of, told
from tritonlm.gateway.fleet import Fleet
from tritonlm.gateway.generation import GenerateBody, streamed_request
from tritonlm.gateway.journal import Journal, Record
from tritonlm.gateway.read_watch import ReadWatch
from tritonlm.gateway.session import Session

PATH, LABEL = "/ws", "/ws generate"
"""Of a request on a socket, in the log and in metrics; the socket itself has the path for both."""
MAX_ID_CHARS = 256
"""Of a request's id, which each of its messages has."""
MAX_REQUESTS = 1024
"""At once on one socket."""
MAX_WINDOW_S = 300
MAX_WAITING = 1024
"""Sessions of a key that wait for their next connection; each keeps up to a megabyte."""
CLEAN_CLOSE = 1000
REFUSED_CLOSE = 4400
"""Our own code of a socket that is closed because it asked for what cannot be had."""
REPLACED_CLOSE = 4409
"""Our own code of a socket whose session goes on over another one."""


@dataclass
class Seat:
    """A session and the socket that it goes on over, if there is one now."""

    session: Session
    window_s: int
    owner: str
    """Name of the key that it was opened with: nobody else may go on with it."""
    endpoint: asyncio.Task[Any] | None = None
    expiry: asyncio.TimerHandle | None = None


@dataclass
class Sockets:
    """All sessions of a worker."""

    fleet: Fleet
    journal: Journal
    slow_reader_timeout_s: float
    _seats: dict[str, Seat] = field(default_factory=dict)
    _waiting: dict[str, dict[str, Seat]] = field(default_factory=lambda: defaultdict(dict))
    """Those of each owner whose connection is lost, in that order."""

    @property
    def num_requests(self) -> int:
        """Requests that run, over all sockets."""
        return sum(len(seat.session) for seat in self._seats.values())

    async def serve(self, socket: WebSocket) -> None:
        """One connection, from its first message to its last."""
        await socket.accept()
        try:
            seat, after = self._take_seat(socket)
        except ServingError as error:
            await socket.send_text(_text({"type": "error", "id": None, **error_body(error)}))
            await socket.close(REFUSED_CLOSE, "refused")
            return
        seat.endpoint = asyncio.current_task()
        is_replaced = False
        metrics.SOCKETS.inc()
        try:
            await self._converse(socket, seat, after)
        except asyncio.CancelledError:
            is_replaced = seat.endpoint is not asyncio.current_task()
            if not is_replaced:
                raise
            await socket.close(REPLACED_CLOSE, "the session goes on over another socket")
        finally:
            metrics.SOCKETS.dec()
            if not is_replaced:
                self._leave_seat(seat)

    def _take_seat(self, socket: WebSocket) -> tuple[Seat, int]:
        """A new session, or one to go on with, and the number of the last message got."""
        query, caller = socket.query_params, socket.state.caller
        window_s = _number(query, "window_s", MAX_WINDOW_S)
        if "session" not in query:
            session = Session(caller)
            self._seats[session.token] = Seat(session, window_s, _name(caller))
            return self._seats[session.token], 0
        after = _number(query, "after", 2**53)
        seat = self._seats.get(query["session"])
        if seat is None or seat.owner != _name(caller) or not seat.session.can_resume_after(after):
            raise NotFound("session: it is over, or too much of it was lost; start again")
        self._wait_no_more(seat)
        if seat.endpoint is not None:
            seat.endpoint.cancel()
        return seat, after

    def _leave_seat(self, seat: Seat) -> None:
        """End the session, unless its window lets it wait for the next connection."""
        seat.endpoint = None
        if not seat.window_s:
            self._end(seat)
            return
        seat.expiry = asyncio.get_running_loop().call_later(seat.window_s, self._end, seat)
        waiting = self._waiting[seat.owner]
        waiting[seat.session.token] = seat
        if len(waiting) > MAX_WAITING:
            self._end(next(iter(waiting.values())))

    def _wait_no_more(self, seat: Seat) -> None:
        self._waiting[seat.owner].pop(seat.session.token, None)
        if seat.expiry is not None:
            seat.expiry.cancel()

    def _end(self, seat: Seat) -> None:
        self._wait_no_more(seat)
        seat.session.close()
        self._seats.pop(seat.session.token, None)

    async def _converse(self, socket: WebSocket, seat: Seat, after: int) -> None:
        session = seat.session
        await socket.send_text(_text({"type": "session", "session": session.token,
                                      "window_s": seat.window_s}))
        watch = ReadWatch(self.slow_reader_timeout_s, session.give_up)
        speaking = asyncio.create_task(_speak(socket, session.messages(after), watch))
        try:
            while True:
                reply = self._heed(session, await socket.receive_text())
                if reply is not None:
                    await socket.send_text(_text(reply))
        except WebSocketDisconnect as end:
            if end.code == CLEAN_CLOSE:
                seat.window_s = 0
        except KeyError:  # a message of bytes
            seat.window_s = 0
            await socket.close(REFUSED_CLOSE, "messages are texts")
        finally:
            watch.close()
            speaking.cancel()

    def _heed(self, session: Session, text: str) -> dict[str, Any] | None:
        """Do what a message says; what is to be replied at once."""
        request_id = None
        try:
            message = json_object(text)
            kind, given_id = message.pop("type", None), message.pop("id", None)
            if kind == "ping":
                return {"type": "pong", "id": given_id}
            if not isinstance(given_id, str) or len(given_id) > MAX_ID_CHARS:
                raise InvalidArgument("id", given_id, "it must be a text of at most "
                                      f"{MAX_ID_CHARS} characters")
            request_id = given_id
            if kind == "generate":
                self._record(session, request_id, message)
            elif kind == "cancel":
                _cancel(session, request_id)
            else:
                raise InvalidArgument("type", kind, "allowed: generate, cancel, ping")
        except ServingError as error:
            return {"type": "error", "id": request_id, **error_body(error)}
        return None

    def _record(self, session: Session, request_id: str, message: dict[str, Any]) -> None:
        """Begin a request within the socket's trace."""
        socket = upstream.CURRENT.get()
        record = self.journal.begin(request_id, "GENERATE", PATH,
                                    socket.traceparent if socket is not None else "")
        record.key = session.caller.key
        try:
            copy_context().run(self._generate, session, record, message)
        except Exception as bug:
            error = told(bug, request_id)
            record.status = failure_of(error).status
            self.journal.end(record, LABEL)
            raise error from None

    def _generate(self, session: Session, record: Record, message: dict[str, Any]) -> None:
        upstream.CURRENT.set(record.upstream)
        if record.request_id in session:
            raise InvalidArgument("id", record.request_id, "a request of that id is running")
        if len(session) >= MAX_REQUESTS:
            raise Unavailable(f"{MAX_REQUESTS} requests run on this socket, the most that may")
        body, options = read_call(message, GenerateBody)
        record.model = body.model
        options = session.caller.applied_to(options)
        request = streamed_request(body, options, self.fleet.resolve(body.model))
        session.caller.enter()
        try:
            answers = self.fleet.open([request], str(options.get("priority", "")))
        except Exception:
            session.caller.leave()
            raise
        session.run(record, answers, lambda: self.journal.end(record, LABEL))


async def _speak(socket: WebSocket, messages: AsyncIterator[str], watch: ReadWatch) -> None:
    async for text in messages:
        await watch.sent(socket.send_text(text))


def _cancel(session: Session, request_id: str) -> None:
    if request_id not in session:
        raise NotFound(f"no request {request_id!r} is running")
    session.cancel(request_id)


def _name(caller: Caller) -> str:
    return caller.key.name if caller.key is not None else ""


def _number(query: Any, name: str, most: int) -> int:
    text = query.get(name, "0")
    if not (text.isdecimal() and len(text) <= len(str(most)) and int(text) <= most):
        raise InvalidArgument(name, text, f"allowed: 0 to {most}")
    return int(text)


def _text(message: dict[str, Any]) -> str:
    return msgspec.json.encode(message).decode()
