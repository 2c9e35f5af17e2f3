"""What a request to the gateway has in common with those that servers get for its sake."""

from __future__ import annotations

from collections import deque
from contextvars import ContextVar
from dataclasses import dataclass, field

from starlette.requests import HTTPConnection
from tritonclient.grpc.service_pb2 import ModelInferRequest

from tritonlm.tracing import TRACEPARENT, LiveSpan, is_traceparent

MAX_TOLD = 100
"""Ids that are kept for the log: a WebSocket may have had any number of requests."""


@dataclass
class Upstream:
    """The trace that a request belongs to, and the ids that servers know it by."""

    traceparent: str = ""
    span: LiveSpan | None = None
    request_ids: deque[str] = field(default_factory=lambda: deque(maxlen=MAX_TOLD))


CURRENT: ContextVar[Upstream | None] = ContextVar("upstream", default=None)
"""That of the request which is being answered."""


def traceparent_of(connection: HTTPConnection) -> str:
    """The context that the client names, if it does so in a valid way."""
    given = connection.headers.get(TRACEPARENT, "")
    return given if is_traceparent(given) else ""


def hand_on(request: ModelInferRequest) -> None:
    """A request goes to a server for the sake of the one that is being answered, if one is."""
    upstream = CURRENT.get()
    if upstream is None:
        return
    upstream.request_ids.append(request.id)
    if upstream.traceparent:
        request.parameters[TRACEPARENT].string_param = upstream.traceparent
