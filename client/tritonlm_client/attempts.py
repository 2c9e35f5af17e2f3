"""How one request is tried: at one server after the other, with the time that is left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from typing import Any, Generic, TypeVar

import numpy as np

from tritonlm.errors import EngineFailure, NotFound, ServingError, Unavailable
from tritonlm_client.balancing.policy import prefix_of
from tritonlm_client.deadline import Deadline
from tritonlm_client.errors import DeadlineExceeded
from tritonlm_client.requests import Request
from tritonlm_client.results import Chunk
from tritonlm_client.servers import Server, Servers

T = TypeVar("T")
MIN_PATIENCE_S = 1.0
"""A server that has not begun by then may hang; who gives it less time does not find that out."""
PROMPTS = ("messages", "text_input", "input_ids", "query")


class Attempt(Generic[T]):
    """A request at one server; as a context it tells the server's health how that began.

    The block has the first of the answer, or fails: `Unavailable` and `NotFound` are kept for
    later, since another server may have what this one has not; other errors are raised.
    """

    def __init__(self, attempts: Attempts[T], server: Server[T], request: Request) -> None:
        self.request = request
        self.transport = server.transport
        self.call: Any = None
        self._attempts = attempts
        self._server = server
        self._start_s = time.monotonic()
        server.unfinished.add(request.id)

    @property
    def timeout_s(self) -> float | None:
        """What is left; raises `DeadlineExceeded`."""
        return self._attempts.deadline.remaining_s

    def end(self) -> None:
        """It is over."""
        self._server.unfinished.discard(self.request.id)

    def __enter__(self) -> Attempt[T]:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        if error is None:
            self._server.begun(time.monotonic() - self._start_s)
            return False
        self.end()
        if isinstance(error, Unavailable | EngineFailure) and not self._is_impatience(error):
            self._server.failed()
        if not isinstance(error, Unavailable | NotFound):
            return False
        self._attempts.keep(error)
        return True

    def _is_impatience(self, error: BaseException) -> bool:
        """Whether so little time says nothing about the server."""
        return (isinstance(error, DeadlineExceeded)
                and time.monotonic() - self._start_s < MIN_PATIENCE_S)


class Attempts(Generic[T]):
    """All attempts of one request."""

    def __init__(self, servers: Servers[T], request: Request, deadline: Deadline) -> None:
        self.request = request
        self.deadline = deadline
        self.current: Attempt[T] | None = None
        """The one whose call was opened last."""
        self._servers = servers
        self._prefix = prefix_of(_prompt(request))
        asked = request.tensors.get("timeout_ms")
        self._asked_ms = None if asked is None else int(asked.item())
        self._is_shortened = False
        self._error: ServingError | None = None
        self._ahead: Iterator[Attempt[T]] | None = None

    def open_ahead(self) -> None:
        """Send the request of a stream before it is iterated over, so that many run at once."""
        attempts = self._round(self.request.model)
        with suppress(Unavailable):  # it will be tried again by whoever iterates
            first = next(attempts)
            self.open(first)
            self._ahead = chain([first], attempts)

    def open(self, attempt: Attempt[Any]) -> Any:
        """The call of a stream's attempt."""
        if attempt.call is None:
            attempt.call = attempt.transport.stream(attempt.request, attempt.timeout_s)
        self.current = attempt
        return attempt.call

    def round(self, model: str) -> Iterator[Attempt[T]]:
        """An attempt at each server; raises the last one's error when all have failed."""
        ahead, self._ahead = self._ahead, None
        return ahead or self._round(model)

    def keep(self, error: ServingError) -> None:
        """Raise it when the round is over, but rather one that may pass."""
        if isinstance(error, Unavailable) or self._error is None:
            self._error = error

    def checked(self, chunk: Chunk) -> Chunk:
        """`chunk`; raises `DeadlineExceeded` if the call's time is over."""
        is_late = not chunk.finish_reason and not self.deadline.is_within(0)
        if is_late or (chunk.finish_reason == "deadline" and self._is_shortened):
            raise self.deadline.exceeded()
        return chunk

    def _round(self, model: str) -> Iterator[Attempt[T]]:
        self._error = None
        for server in self._servers.round(model, self._prefix):
            yield Attempt(self, server, self._timed(model))
        raise self._error or AssertionError("an attempt has neither failed nor ended the round")

    def _timed(self, model: str) -> Request:
        """The request with the time that is left to it."""
        request = replace(self.request, model=model)
        left_ms = self.deadline.timeout_ms(self._asked_ms)
        if not request.takes_timeout or left_ms == self._asked_ms:
            return request
        self._is_shortened = True
        return replace(request, tensors={**request.tensors,
                                         "timeout_ms": np.array([[left_ms]], np.int32)})


def _prompt(request: Request) -> bytes:
    values = next((request.tensors[name] for name in PROMPTS if name in request.tensors), None)
    if values is None:
        return b""
    return values.flat[0] if values.dtype == np.object_ else values.tobytes()
