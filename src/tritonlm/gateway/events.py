"""Server-sent events made of pieces of answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tritonlm.errors import ServingError
from tritonlm.gateway.answers import Answers
from tritonlm.gateway.cached_answers import CachedAnswers
from tritonlm.gateway.connected import while_connected
from tritonlm.gateway.draining import stopping
from tritonlm.gateway.failures import ClientGone, error_body, failure_of, told
from tritonlm.gateway.journal import Record
from tritonlm.gateway.pieces import Piece
from tritonlm.gateway.read_watch import ReadWatch

HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"),
           (b"x-accel-buffering", b"no")]


class Script(Protocol):
    """Says what the events of an answer are."""

    def events(self, prompt: int, piece: Piece) -> Sequence[bytes]:
        """Data of the events that tell of `piece`."""

    def closing(self) -> Sequence[bytes]:
        """Data of the events after the last piece."""


async def open_events(
    request: Request, answers: Answers | CachedAnswers, script: Script
) -> EventStream:
    """A stream of events once the first piece is there; raises `ServingError` if it fails."""
    try:
        first = await while_connected(request.receive, answers.__anext__())
    except BaseException:
        answers.__exit__()
        raise
    return EventStream(answers, first, script, request)


class EventStream(Response):
    """Sends events as pieces come; an error amid them is an event, too."""

    def __init__(
        self, answers: Answers | CachedAnswers, first: list[tuple[int, Piece]], script: Script,
        request: Request,
    ) -> None:
        super().__init__()
        self._record: Record = request.state.record
        self._slow_reader_timeout_s: float = request.state.slow_reader_timeout_s
        self._answers = answers
        self._first = first
        self._script = script

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run until the answers are over or the client hangs up."""
        watch = ReadWatch(self._slow_reader_timeout_s, self._answers.give_up)
        with self._answers:
            try:
                await while_connected(receive, self._send_all(send, watch))
            except ClientGone:
                pass
            except asyncio.CancelledError:
                if not self._record.has_begun:
                    raise
                await self._send_error(send, stopping())
            finally:
                watch.close()

    async def _send_all(self, send: Send, watch: ReadWatch) -> None:
        await send({"type": "http.response.start", "status": 200,
                    "headers": [*HEADERS, *self.raw_headers[1:]]})
        try:
            await watch.sent(self._send_pieces(send, self._first))
            async for pieces in self._answers:
                await watch.sent(self._send_pieces(send, pieces))
            closing = self._script.closing()
        except Exception as error:
            await self._send_error(send, told(error, self._record.request_id))
            return
        await send({"type": "http.response.body", "body": framed(closing), "more_body": False})

    async def _send_error(self, send: Send, error: ServingError) -> None:
        """The last event."""
        self._record.status = failure_of(error).status
        data = framed([encoded(error_body(error))])
        await send({"type": "http.response.body", "body": data, "more_body": False})

    async def _send_pieces(self, send: Send, pieces: list[tuple[int, Piece]]) -> None:
        data = [event for prompt, piece in pieces for event in self._script.events(prompt, piece)]
        await send({"type": "http.response.body", "body": framed(data), "more_body": True})


def framed(data: Sequence[bytes]) -> bytes:
    """Events as they go over the wire."""
    return b"".join([b"data: %b\n\n" % event for event in data])


def encoded(event: dict[str, Any]) -> bytes:
    """An object as the data of an event."""
    return msgspec.json.encode(event)
