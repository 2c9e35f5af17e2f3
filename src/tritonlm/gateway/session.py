"""The requests of one WebSocket client, which may outlive its connection for a while."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from typing import Any
from uuid import uuid4

import msgspec

from tritonlm.errors import ServingError
from tritonlm.gateway.access import Caller
from tritonlm.gateway.answers import Answers
from tritonlm.gateway.failures import error_body, failure_of, told
from tritonlm.gateway.generation import told_piece
from tritonlm.gateway.journal import Record

MAX_UNSENT = 64
"""Messages that wait for a slow reader; further pieces wait, joined, where they come from."""
MAX_PID_DIGITS = 10
MAX_KEPT_BYTES = 1 << 20
"""Of messages that were sent and may have been lost with a connection."""


def owner_of(token: str) -> int | None:
    """The process that has the session of that token; None if it is no token."""
    pid = token.partition(".")[0]
    return int(pid) if pid.isdecimal() and len(pid) <= MAX_PID_DIGITS else None


class Session:
    """Runs requests and numbers what is said of them, so that a reader can go on after a loss."""

    def __init__(self, caller: Caller) -> None:
        """`caller` is who makes the requests."""
        self.caller = caller
        self.token = f"{os.getpid()}.{uuid4().hex}"
        self._running: dict[str, tuple[Answers, asyncio.Task[None]]] = {}
        self._unsent: asyncio.Queue[dict[str, Any]] = asyncio.Queue(MAX_UNSENT)
        self._sent: deque[str] = deque()
        self._num_sent = 0
        self._num_kept_bytes = 0

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._running

    def __len__(self) -> int:
        """Requests that run."""
        return len(self._running)

    def run(self, record: Record, answers: Answers, end: Callable[[], None]) -> None:
        """Say what comes of `answers`, under an id that is not in use; the caller has entered.

        `record` is filled in meanwhile, and `end` called when it is over.
        """
        task = asyncio.create_task(self._tell(record, answers))
        self._running[record.request_id] = answers, task

        def forget(_: object) -> None:
            answers.__exit__()  # what is cancelled before its first step has run none of `_tell`
            del self._running[record.request_id]
            self.caller.leave()
            end()

        task.add_done_callback(forget)

    def cancel(self, request_id: str) -> None:
        """End the request of that id, which runs; its last piece says that it was cancelled."""
        self._running[request_id][0].cancel()

    def close(self) -> None:
        """End all requests; nobody is told."""
        for _, task in tuple(self._running.values()):
            task.cancel()

    def give_up(self, error: ServingError) -> None:
        """End all requests with `error`, which the client hears of if it reads again."""
        for answers, _ in self._running.values():
            answers.give_up(error)

    def can_resume_after(self, number: int) -> bool:
        """Whether all messages after that one can be given out, again or for the first time."""
        return self._num_sent - len(self._sent) <= number <= self._num_sent

    async def messages(self, after: int) -> AsyncIterator[str]:
        """The messages after number `after`: what was sent is sent again, then what comes."""
        for text in tuple(self._sent)[after - self._num_sent + len(self._sent) :]:
            yield text
        while True:
            message = await self._unsent.get()
            self._num_sent += 1
            text = msgspec.json.encode({**message, "seq": self._num_sent}).decode()
            self._keep(text)
            yield text

    async def _tell(self, record: Record, answers: Answers) -> None:
        request_id = record.request_id
        try:
            async for pieces in answers:
                for prompt, piece in pieces:
                    record.usage.count(prompt, piece)
                    record.note_first_byte()
                    await self._unsent.put(
                        {"type": "chunk", "id": request_id, **told_piece(piece)})
            record.status = HTTPStatus.OK
            last = {"type": "done", "id": request_id, "usage": record.usage.as_json()}
        except Exception as bug:
            error = told(bug, request_id)
            record.status = failure_of(error).status
            last = {"type": "error", "id": request_id, **error_body(error)}
        await self._unsent.put(last)

    def _keep(self, text: str) -> None:
        self._sent.append(text)
        self._num_kept_bytes += len(text)
        while self._num_kept_bytes > MAX_KEPT_BYTES:
            self._num_kept_bytes -= len(self._sent.popleft())
