"""Sends the lines of a batch to a gateway, so many at a time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from uuid import uuid4

import aiohttp
import msgspec

from tritonlm.batch_files.input_file import Line
from tritonlm.batch_files.output_file import AnswerLine, OutputFile
from tritonlm.errors import InvalidArgument, Unavailable

RETRIED = frozenset({429, 502, 503, 504})
"""Statuses of a gateway that is full, or not there, for now."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
CONNECT_TIMEOUT_S = 10.0
"""A gateway that has not taken a connection by then is not there."""
UNAUTHORIZED, NOT_FOUND = 401, 404
REQUEST_ID = "x-request-id"
"""A header of all that a gateway answers."""


@dataclass(frozen=True)
class Sending:
    """How lines are sent."""

    url: str
    concurrency: int
    retries: int
    """Further attempts for a line whose gateway is full or not there."""
    timeout_s: float
    """Of an attempt."""
    api_key: str = ""


class Sender:
    """Every line it takes is answered in the output, or `run` raises and the line is not."""

    def __init__(
        self, sending: Sending, output: OutputFile, tell: Callable[[AnswerLine], None]
    ) -> None:
        """`tell` gets each answer once it is on disk."""
        self._sending = sending
        self._output = output
        self._tell = tell
        self._unwritten: list[AnswerLine] = []
        self._disk = asyncio.Lock()
        self._is_reached = False

    async def run(self, lines: Iterator[Line]) -> None:
        """Return when all `lines` are answered.

        Raises `Unavailable` if nobody is there, and `InvalidArgument` for somebody else than a
        gateway, or a key that it does not know.
        """
        headers = {"authorization": f"Bearer {self._sending.api_key}"} if (
            self._sending.api_key) else None
        async with aiohttp.ClientSession(
                headers=headers, connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(self._sending.timeout_s,
                                              sock_connect=CONNECT_TIMEOUT_S)) as http:
            tasks = [asyncio.create_task(self._send_all(http, lines))
                     for _ in range(self._sending.concurrency)]
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)

    async def _send_all(self, http: aiohttp.ClientSession, lines: Iterator[Line]) -> None:
        for line in lines:
            response, error = await self._attempts(http, line)
            self._unwritten.append(
                AnswerLine(f"batch_req_{uuid4().hex}", line.custom_id, response, error))
            async with self._disk:
                await self._write()

    async def _write(self) -> None:
        """Write what others have left, too: one sync for all of it."""
        answers, self._unwritten = self._unwritten, []
        if answers:
            # A thread cannot be cancelled: the answers are on disk, even if nobody waits for it.
            await asyncio.shield(asyncio.to_thread(self._output.append, answers))
        for answer in answers:
            self._tell(answer)

    async def _attempts(
        self, http: aiohttp.ClientSession, line: Line
    ) -> tuple[dict[str, object] | None, dict[str, object] | None]:
        """Response and error of a line."""
        for attempt in range(self._sending.retries + 1):
            is_last = attempt == self._sending.retries
            try:
                async with http.post(self._sending.url + line.url, json=line.body) as answer:
                    self._is_reached = True
                    await self._check(answer)
                    if answer.status not in RETRIED or is_last:
                        return _outcome(answer, await answer.read())
                    least_s = _seconds(answer.headers.get("retry-after", ""))
            except aiohttp.ClientError as error:  # also of a connection that is not made in time
                if is_last or not self._is_reached:
                    raise Unavailable(f"no gateway answers at {self._sending.url} ({error}); what "
                                      "is done is kept: the same command goes on") from None
                least_s = 0.0
            except asyncio.TimeoutError:
                return None, {"code": "timeout",
                              "message": f"no answer within {self._sending.timeout_s:g} s"}
            await asyncio.sleep(max(least_s, _wait_s(attempt)))
        raise AssertionError("the last attempt returns or raises")

    async def _check(self, answer: aiohttp.ClientResponse) -> None:
        """Raise `InvalidArgument` for what every line would be answered."""
        if answer.status == UNAUTHORIZED:
            raise InvalidArgument("--api-key", "(hidden)", await answer.text())
        if answer.status == NOT_FOUND and REQUEST_ID not in answer.headers:
            raise InvalidArgument("--url", self._sending.url, f"there is no {answer.url.path}; "
                                  "allowed: the URL of a gateway")


def _outcome(
    answer: aiohttp.ClientResponse, raw: bytes
) -> tuple[dict[str, object] | None, dict[str, object] | None]:
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None, {"code": "no_json", "message": f"status {answer.status}, and a body that is "
                                                    f"no JSON: {raw[:200]!r}"}
    return {"status_code": answer.status, "request_id": answer.headers.get(REQUEST_ID, ""),
            "body": body}, None


def _wait_s(attempt: int) -> float:
    """Twice as long each time, give or take a half, so that not all come back at once."""
    return float(min(FIRST_WAIT_S * 2**attempt, LONGEST_WAIT_S) * random.uniform(0.5, 1.5))


def _seconds(text: str) -> float:
    return float(text) if text.isdecimal() else 0.0
