"""One bidirectional gRPC stream to a Triton server that carries many requests at once.

Responses find their request by its id. A stream that is lost ends all its requests with
`Unavailable`; the next request opens another.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeAlias

import grpc
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelStreamInferResponse

from tritonlm.errors import ServingError, Unavailable
from tritonlm.gateway.upstream import MAX_TOLD
from tritonlm.logs import fields
from tritonlm_client.errors import from_message
from tritonlm_client.requests import cancel_request

LOG = logging.getLogger(__name__)
CANCEL_RETRY_S = 0.05
"""A cancellation may arrive before the request that it is for."""

Outcome: TypeAlias = ModelStreamInferResponse | ServingError
Sink: TypeAlias = Callable[[Outcome, bool], None]
"""Gets each response of a request, or its error, and whether it is the last."""


class TritonStream:
    """A stream that is open while there is something to say; belongs to one event loop."""

    def __init__(self, url: str, open_call: Callable[[AsyncIterator[ModelInferRequest]], Any]):
        self._url = url
        self._open_call = open_call
        self._sinks: dict[str, Sink] = {}
        self._outgoing: asyncio.Queue[ModelInferRequest] = asyncio.Queue()
        self._reader: asyncio.Task[None] | None = None
        self._cancellations: dict[str, asyncio.Task[None]] = {}

    @property
    def num_unfinished(self) -> int:
        """Requests whose last response has not come."""
        return len(self._sinks)

    def submit(self, request: ModelInferRequest, sink: Sink) -> None:
        """Send `request`, whose id nobody else uses; `sink` gets what comes."""
        self._sinks[request.id] = sink
        if self._reader is None:
            self._outgoing = asyncio.Queue()
            call = self._open_call(_drain(self._outgoing))
            self._reader = asyncio.create_task(self._read(call))
        self._outgoing.put_nowait(request)

    def cancel(self, request: ModelInferRequest) -> None:
        """End `request` at the server, if it is not over; its sink is told of the end."""
        request_id = request.id
        if request_id in self._sinks and request_id not in self._cancellations:
            task = asyncio.create_task(self._cancel(request.model_name, request_id))
            self._cancellations[request_id] = task
            task.add_done_callback(lambda _: self._cancellations.pop(request_id))

    def abandon(self, request: ModelInferRequest) -> None:
        """As `cancel`, but the sink gets nothing any more."""
        if request.id in self._sinks:
            self._sinks[request.id] = _ignore
            self.cancel(request)

    def hang_up(self) -> None:
        """End the stream if nothing runs on it: a server that is told to stop waits for its end."""
        if self._reader is not None and not self._sinks:
            self._reader.cancel()
            self._reader = None

    async def close(self) -> None:
        """End the stream and all that runs on it."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])

    async def _read(self, call: Any) -> None:
        error = Unavailable("the server has ended the stream; retry later")
        try:
            async for response in call:
                self._dispatch(response)
        except grpc.RpcError as failure:
            error = server_lost(self._url, failure, list(self._sinks))
        finally:
            call.cancel()
            if self._reader is asyncio.current_task():  # else it was hung up, or has a successor
                self._reader = None
                lost, self._sinks = self._sinks, {}
                for sink in lost.values():
                    sink(error, True)

    def _dispatch(self, response: ModelStreamInferResponse) -> None:
        result = response.infer_response
        if response.error_message:
            outcome: Outcome = from_message(response.error_message)
            is_last = True
        else:
            outcome = response
            is_last = result.parameters["triton_final_response"].bool_param
        sink = self._sinks.pop(result.id, None) if is_last else self._sinks.get(result.id)
        if sink is not None:
            sink(outcome, is_last)

    async def _cancel(self, model: str, request_id: str) -> None:
        while request_id in self._sinks:
            is_answered = asyncio.Event()
            self.submit(cancel_request(model, request_id).as_protobuf(),
                        lambda *_, it=is_answered: it.set())
            await is_answered.wait()
            await asyncio.sleep(CANCEL_RETRY_S)


async def _drain(outgoing: asyncio.Queue[ModelInferRequest]) -> AsyncIterator[ModelInferRequest]:
    while True:
        yield await outgoing.get()


def server_lost(url: str, error: grpc.RpcError, request_ids: Sequence[str]) -> Unavailable:
    """What the clients of those requests are told; where the server is, the log knows."""
    LOG.warning("server %s: %s", url, error.details(),
                extra=fields(server_request_ids=request_ids[:MAX_TOLD]))
    return Unavailable("the server that worked on this was lost, or is not there; retry later")


def _ignore(*_: object) -> None:
    """What becomes of a cancelled request is of no interest."""
