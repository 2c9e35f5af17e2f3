"""HTTP as uvicorn speaks it, but for two things that a client could do to a worker unseen."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

MAX_HEAD_BYTES = 64 * 1024


class HttpProtocol(HttpToolsProtocol):
    """Bounds the head of a request, and tells the one that runs of a lost connection.

    uvicorn tells the newest, which waits where requests are pipelined.
    """

    _running: RequestResponseCycle | None = None
    _is_in_head = False
    _num_head_bytes = 0

    def data_received(self, data: bytes) -> None:
        """Bytes of requests have come."""
        self._num_head_bytes += len(data) if self._is_in_head else 0
        super().data_received(data)
        if self._is_in_head and self._num_head_bytes > MAX_HEAD_BYTES:
            self.send_400_response(f"the head of a request has at most {MAX_HEAD_BYTES:,} bytes")

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._is_in_head, self._num_head_bytes = True, 0

    def on_headers_complete(self) -> None:
        """It is over."""
        self._is_in_head = False
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        super().connection_lost(exc)
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)
