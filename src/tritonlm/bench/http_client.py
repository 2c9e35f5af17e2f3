"""Server-sent events over HTTP.

Bytes are stamped as they come and read when the answer is over, so that reading delays nothing.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

import httptools
import msgspec

from tritonlm.bench.asks import Ask
from tritonlm.bench.client import CONNECT_TIMEOUT_S
from tritonlm.bench.dialects import DIALECTS, Read
from tritonlm.bench.load import Load
from tritonlm.bench.seen import Seen, Watch
from tritonlm.errors import Unavailable

EVENT = re.compile(rb"^data: ?(.*?)\r?$", re.MULTILINE)
OK = 200


class HttpClient:
    """Asks in the dialect of `load.backend`."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._dialect = DIALECTS[load.backend]

    def request(self, ask: Ask) -> bytes:
        """Head and body."""
        load = self._load
        body = json.dumps(self._dialect.body(load, ask)).encode()
        key = f"authorization: Bearer {load.api_key}\r\n" if load.api_key else ""
        head = (f"POST {self._dialect.path.format(model=load.model)} HTTP/1.1\r\n"
                f"host: {load.address}\r\ncontent-type: application/json\r\n{key}"
                f"content-length: {len(body)}\r\n\r\n")
        return head.encode() + body

    def connection(self) -> HttpConnection:
        """A connection, which is kept alive between requests."""
        return HttpConnection(self._load.address, self._dialect.read)

    async def close(self) -> None:
        """Connections share nothing."""


class HttpConnection(asyncio.Protocol):
    """One request after the other over a connection, which is made anew when it is lost."""

    def __init__(self, address: str, read: Read) -> None:
        self._address = address
        self._read = read
        self._transport: asyncio.Transport | None = None
        self._pieces: list[tuple[float, bytes]] = []
        self._over: asyncio.Future[str] | None = None
        """The error of the running request, or an empty text."""

    async def open(self) -> None:
        """Connect; raises `Unavailable`."""
        host, port = self._address.rsplit(":", 1)
        connecting = asyncio.get_running_loop().create_connection(
            lambda: self, host.strip("[]"), int(port))
        try:
            self._transport, _ = await asyncio.wait_for(connecting, CONNECT_TIMEOUT_S)
        except (OSError, asyncio.TimeoutError):
            raise Unavailable(f"no server answers at {self._address}") from None

    async def run(self, request: bytes) -> Seen:
        """Send `request` and read its answer to the end."""
        try:
            if self._transport is None:
                await self.open()
        except Unavailable as error:
            return Watch(time.monotonic(), error=error.message).seen()
        assert self._transport is not None
        self._pieces = []
        self._parser = httptools.HttpResponseParser(self)
        self._over = asyncio.get_running_loop().create_future()
        watch = Watch(time.monotonic())
        self._transport.write(request)
        watch.error = await self._over
        if not watch.error:
            self._read_events(watch)
        return watch.seen()

    async def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def _read_events(self, watch: Watch) -> None:
        if self._parser.get_status_code() != OK:
            answer = b"".join(body for _, body in self._pieces).decode(errors="replace")
            watch.error = f"status {self._parser.get_status_code()}: {answer}"
            return
        try:
            for at_s, data in timed_events(self._pieces):
                self._read(data, at_s, watch)
        except msgspec.DecodeError as error:
            watch.error = f"an event cannot be read: {error}"

    # What asyncio tells.

    def data_received(self, data: bytes) -> None:
        """Bytes of an answer."""
        self._now_s = time.monotonic()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if self._transport is not None:
                self._transport.close()
            self._end(f"the answer is no HTTP: {error}")

    def connection_lost(self, _error: Exception | None) -> None:
        """The other side closed it, or we did."""
        self._transport = None
        self._end("the connection was closed")

    # What the parser tells.

    def on_body(self, body: bytes) -> None:
        """Bytes of the body."""
        self._pieces.append((self._now_s, body))

    def on_message_complete(self) -> None:
        """The end of an answer."""
        if not self._parser.should_keep_alive() and self._transport is not None:
            self._transport.close()
            self._transport = None
        self._end("")

    def _end(self, error: str) -> None:
        if self._over is not None and not self._over.done():
            self._over.set_result(error)


def timed_events(pieces: list[tuple[float, bytes]]) -> Iterator[tuple[float, bytes]]:
    """When each event of a body was whole, and its data; `pieces` are stamped bytes."""
    ends = list(accumulate(len(body) for _, body in pieces))
    for event in EVENT.finditer(b"".join(body for _, body in pieces)):
        yield pieces[bisect_left(ends, event.end())][0], event[1]
