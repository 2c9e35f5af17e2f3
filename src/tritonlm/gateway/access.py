"""What happens to every request before and after it is answered: who, how much, how long."""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from uuid import uuid4

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tritonlm.errors import ServingError
from tritonlm.gateway import metrics, upstream
from tritonlm.gateway.failures import CLIENT_GONE_STATUS, BodyTooLarge, error_response
from tritonlm.gateway.keys import ApiKey, KeyRing
from tritonlm.gateway.limits import Limits
from tritonlm.gateway.upstream import Upstream
from tritonlm.gateway.usage import Usage
from tritonlm.logs import fields, json_line
from tritonlm.tracing import Tracer

LOG = logging.getLogger("tritonlm.access")
BUGS = logging.getLogger(__name__)
OPEN_PATHS = frozenset({"/", "/health/live", "/health/ready", "/metrics"})
OPEN_FOLDER = "/page/"
"""What needs no key."""
REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
ID_HEADER = b"x-request-id"


@dataclass
class Record:
    """One request, as the log and the metrics get it."""

    request_id: str
    path: str
    start_s: float = field(default_factory=time.monotonic)
    status: int = CLIENT_GONE_STATUS
    first_byte_s: float | None = None
    model: str = ""
    usage: Usage = field(default_factory=Usage)
    key: ApiKey | None = None
    upstream: Upstream = field(default_factory=Upstream)


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
        is_logged: bool, tracer: Tracer | None = None,
    ) -> None:
        self._app = app
        self._keys = keys
        self._limits = limits
        self._max_body_bytes = max_body_bytes
        self._is_logged = is_logged
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it with what is wrong."""
        if scope["type"] not in {"http", "websocket"}:
            try:
                await self._app(scope, receive, send)
            finally:
                if self._tracer is not None:
                    self._tracer.close()
            return
        connection = HTTPConnection(scope)
        record = Record(_request_id(connection), scope["path"],
                        upstream=upstream.begin(self._tracer, connection))
        scope.setdefault("state", {})["record"] = record
        metrics.IN_FLIGHT.inc()
        try:
            await self._admit(scope, connection, receive, _noting(record, send))
        except Exception:
            record.status = HTTPStatus.INTERNAL_SERVER_ERROR
            BUGS.exception("the gateway failed", extra=fields(request_id=record.request_id))
            raise
        finally:
            metrics.IN_FLIGHT.dec()
            self._tell(record, scope)

    async def _admit(
        self, scope: Scope, connection: HTTPConnection, receive: Receive, send: Send
    ) -> None:
        record: Record = scope["state"]["record"]
        try:
            caller = self._caller(connection)
            record.key = caller.key
            scope["state"]["caller"] = caller
            is_counted = scope["type"] == "http" and scope["method"] == "POST"
            if is_counted:
                caller.enter()
        except ServingError as error:
            await error_response(error)(scope, receive, send)
            return
        try:
            await self._app(scope, _limited(receive, self._max_body_bytes), send)
        finally:
            if is_counted:
                caller.leave()

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

    def _tell(self, record: Record, scope: Scope) -> None:
        route = scope.get("route")
        path = getattr(route, "path", "other")
        total_s = time.monotonic() - record.start_s
        metrics.begin_path(path)
        metrics.REQUESTS.labels(path, str(record.status)).inc()
        metrics.REQUEST_S.labels(path).observe(total_s)
        if record.first_byte_s is not None:
            metrics.FIRST_BYTE_S.labels(path).observe(record.first_byte_s)
        if record.usage.num_output_tokens:
            metrics.INPUT_TOKENS.labels(record.model).inc(record.usage.num_input_tokens)
            metrics.OUTPUT_TOKENS.labels(record.model).inc(record.usage.num_output_tokens)
        if self._is_logged:
            LOG.info(_log_line(record, scope, total_s))
        if record.upstream.span is not None:
            record.upstream.span.end(_attributes(record, scope), (
                str(record.status) if record.status >= HTTPStatus.INTERNAL_SERVER_ERROR else ""))


def _log_line(record: Record, scope: Scope, total_s: float) -> str:
    return json_line(
        "gateway", "request", request_id=record.request_id,
        method=scope.get("method", "WEBSOCKET"), path=record.path, status=record.status,
        seconds=round(total_s, 4),
        first_byte_seconds=record.first_byte_s and round(record.first_byte_s, 4),
        key=record.key.name if record.key else None, model=record.model or None,
        input_tokens=record.usage.num_input_tokens, output_tokens=record.usage.num_output_tokens,
        server_request_ids=list(record.upstream.request_ids))


def _attributes(record: Record, scope: Scope) -> dict[str, Any]:
    """What a span tells, under OpenTelemetry's names."""
    return {
        "http.request.method": scope.get("method", "GET"), "url.path": record.path,
        "http.response.status_code": int(record.status),
        "gen_ai.request.model": record.model or None,
        "gen_ai.usage.input_tokens": record.usage.num_input_tokens,
        "gen_ai.usage.output_tokens": record.usage.num_output_tokens,
        "tritonlm.request_id": record.request_id,
        "tritonlm.first_byte_seconds": record.first_byte_s,
    }


def _request_id(connection: HTTPConnection) -> str:
    """The client's own, if it is a sensible one."""
    given = connection.headers.get(ID_HEADER.decode(), "")
    return given if REQUEST_ID.fullmatch(given) else uuid4().hex


def _noting(record: Record, send: Send) -> Send:
    """`send` that notes what it sends, and adds the request's id."""
    async def noting(message: Message) -> None:
        if message["type"].endswith(("http.response.start", "websocket.accept")):
            record.status = message.get("status", 101)
            message["headers"] = [*message.get("headers", ()),
                                  (ID_HEADER, record.request_id.encode())]
        elif record.first_byte_s is None and message.get("body"):
            record.first_byte_s = time.monotonic() - record.start_s
        await send(message)
    return noting


def _limited(receive: Receive, max_bytes: int) -> Receive:
    """`receive` that raises `BodyTooLarge` once a body is."""
    num_bytes = 0

    async def limited() -> Message:
        nonlocal num_bytes
        message = await receive()
        num_bytes += len(message.get("body", b"")) if message["type"] == "http.request" else 0
        if num_bytes > max_bytes:
            raise BodyTooLarge(f"body: more than {max_bytes:,} bytes")
        return message
    return limited

