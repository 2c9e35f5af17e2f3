"""A stream to a server whose models are loaded on demand."""

from __future__ import annotations

import asyncio
from functools import partial

from tritonclient.grpc.service_pb2 import ModelInferRequest

from tritonlm.errors import ServingError, Unavailable
from tritonlm.gateway.stream import Outcome, Sink, TritonStream
from tritonlm.manager.client import Lease, ManagerClient


class LeasedStream:
    """To its callers as the stream in it: a request is sent once its model is there, and holds it.

    Belongs to one event loop.
    """

    def __init__(self, stream: TritonStream, manager: ManagerClient) -> None:
        self._stream = stream
        self._manager = manager
        self._waiting: dict[str, tuple[asyncio.Task[None], Sink]] = {}
        self._leases: dict[str, Lease] = {}

    @property
    def num_unfinished(self) -> int:
        """Requests whose last response has not come."""
        return self._stream.num_unfinished + len(self._waiting)

    def submit(self, request: ModelInferRequest, sink: Sink) -> None:
        """Send `request` when its model is ready; `sink` gets what comes, or why it is not."""
        task = asyncio.create_task(self._send(request, sink))
        self._waiting[request.id] = task, sink

    def cancel(self, request: ModelInferRequest) -> None:
        """End `request`, if it is not over; its sink is told of the end."""
        if request.id in self._waiting:
            _, sink = self._waiting[request.id]
            self.abandon(request)
            sink(Unavailable("it was cancelled while it waited for its model"), True)
        else:
            self._stream.cancel(request)

    def abandon(self, request: ModelInferRequest) -> None:
        """As `cancel`, but the sink gets nothing any more."""
        if request.id in self._waiting:
            self._waiting.pop(request.id)[0].cancel()
        self._stream.abandon(request)
        self._release(request.id)

    async def close(self) -> None:
        """End the stream and all that waits or runs."""
        for task, _ in self._waiting.values():
            task.cancel()
        await self._stream.close()

    async def _send(self, request: ModelInferRequest, sink: Sink) -> None:
        try:
            lease = await self._manager.lease(request.model_name, request.id)
        except ServingError as error:
            del self._waiting[request.id]
            sink(error, True)
            return
        del self._waiting[request.id]
        self._leases[request.id] = lease
        self._stream.submit(request, partial(self._pass_on, request.id, sink))

    def _pass_on(self, request_id: str, sink: Sink, outcome: Outcome, is_last: bool) -> None:
        if is_last:
            self._release(request_id)
        sink(outcome, is_last)

    def _release(self, request_id: str) -> None:
        lease = self._leases.pop(request_id, None)
        if lease is not None:
            lease.release()
