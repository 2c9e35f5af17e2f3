"""What happens to every request before it is answered: who asks, and how much they may."""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from uuid import uuid4

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tritonlm.errors import ServingError
from tritonlm.gateway import upstream
from tritonlm.gateway.draining import Draining, stopping
from tritonlm.gateway.failures import BodyTooLarge, error_response
from tritonlm.gateway.journal import Journal, Record
from tritonlm.gateway.keys import ApiKey, KeyRing
from tritonlm.gateway.limits import Limits
from tritonlm.logs import fields

BUGS = logging.getLogger(__name__)
OPEN_PATHS = frozenset({"/", "/health/live", "/health/ready", "/metrics"})
OPEN_FOLDER = "/page/"
"""What needs no key."""
REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
ID_HEADER = b"x-request-id"


@dataclass(frozen=True)
class Caller:
    """Who makes a request, and what counts against them."""

    key: ApiKey | None = None
    limits: Limits | None = None

    def applied_to(self, options: dict[str, Any]) -> dict[str, Any]:
        """The options that the caller's request has; raises `InvalidArgument`."""
        return options if self.key is None else self.key.applied_to(options)

    def enter(self) -> None:
        """A request begins; raises `TooManyRequests`."""
        if self.key is not None and self.limits is not None:
            self.limits.enter(self.key)

    def leave(self) -> None:
        """A request that has begun is over."""
        if self.key is not None and self.limits is not None:
            self.limits.leave(self.key)


class Access:
    """Middleware: ids, keys, limits, the size of bodies, log and metrics."""

    def __init__(
        self, app: ASGIApp, keys: KeyRing | None, limits: Limits | None, max_body_bytes: int,
        journal: Journal, draining: Draining,
    ) -> None:
        self._app = app
        self._keys = keys
        self._limits = limits
        self._max_body_bytes = max_body_bytes
        self._journal = journal
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it with what is wrong."""
        if scope["type"] not in {"http", "websocket"}:
            try:
                await self._app(scope, receive, send)
            finally:
                if self._journal.tracer is not None:
                    self._journal.tracer.close()
            return
        connection = HTTPConnection(scope)
        record = self._journal.begin(
            _request_id(connection), scope.get("method", "WEBSOCKET"), scope["path"],
            upstream.traceparent_of(connection))
        upstream.CURRENT.set(record.upstream)
        scope.setdefault("state", {})["record"] = record
        try:
            await self._admit(scope, connection, receive, _noting(record, send))
        except Exception:
            record.status = HTTPStatus.INTERNAL_SERVER_ERROR
            BUGS.exception("the gateway failed", extra=fields(request_id=record.request_id))
            raise
        finally:
            self._journal.end(record, getattr(scope.get("route"), "path", "other"))

    async def _admit(
        self, scope: Scope, connection: HTTPConnection, receive: Receive, send: Send
    ) -> None:
        record: Record = scope["state"]["record"]
        try:
            caller = self._caller(connection)
            record.key = caller.key
            scope["state"]["caller"] = caller
            is_counted = scope["type"] == "http" and scope["method"] == "POST"
            if is_counted and self._draining.has_begun:
                raise stopping()
            _check_length(connection, self._max_body_bytes)
            if is_counted:
                caller.enter()
        except ServingError as error:
            await error_response(error)(scope, receive, send)
            return
        try:
            await self._answer(scope, _limited(receive, self._max_body_bytes), send)
        finally:
            if is_counted:
                caller.leave()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have a request answered, if need be with why it is cut short."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            with self._draining.within_time():
                await self._app(scope, receive, send)
        except asyncio.CancelledError:
            if scope["state"]["record"].has_begun:
                raise
            await error_response(stopping())(scope, receive, send)

    def _caller(self, connection: HTTPConnection) -> Caller:
        """Who calls; raises `Unauthorized`."""
        scope = connection.scope
        path = scope["path"]
        is_open = (path in OPEN_PATHS or path.startswith(OPEN_FOLDER)
                   or scope.get("method") == "OPTIONS")
        if self._keys is None or is_open:
            return Caller()
        kind, _, presented = connection.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer":
            # A browser's WebSocket sends no header of its own.
            is_socket = scope["type"] == "websocket"
            presented = connection.query_params.get("api_key", "") if is_socket else ""
        return Caller(self._keys.find(presented.strip()), self._limits)


def _request_id(connection: HTTPConnection) -> str:
    """The client's own, if it is a sensible one."""
    given = connection.headers.get(ID_HEADER.decode(), "")
    return given if REQUEST_ID.fullmatch(given) else uuid4().hex


def _noting(record: Record, send: Send) -> Send:
    """`send` that notes what it sends, and adds the request's id."""
    async def noting(message: Message) -> None:
        if message["type"].endswith(("http.response.start", "websocket.accept")):
            record.status = message.get("status", 101)
            record.has_begun = True
            message["headers"] = [*message.get("headers", ()),
                                  (ID_HEADER, record.request_id.encode())]
        elif message.get("body"):
            record.note_first_byte()
        await send(message)
    return noting


def _limited(receive: Receive, max_bytes: int) -> Receive:
    """`receive` that raises `BodyTooLarge` once a body is."""
    num_bytes = 0

    async def limited() -> Message:
        nonlocal num_bytes
        message = await receive()
        num_bytes += len(message.get("body", b"")) if message["type"] == "http.request" else 0
        _check_size(num_bytes, max_bytes)
        return message
    return limited


def _check_length(connection: HTTPConnection, max_bytes: int) -> None:
    """Refuse a body that says how long it is before any of it is sent."""
    told = connection.headers.get("content-length", "")
    _check_size(int(told) if told.isdecimal() else 0, max_bytes)


def _check_size(num_bytes: int, max_bytes: int) -> None:
    if num_bytes > max_bytes:
        raise BodyTooLarge(f"body: more than {max_bytes:,} bytes")
