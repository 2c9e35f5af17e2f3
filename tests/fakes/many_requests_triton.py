"""Triton's gRPC service in the test's event loop: many requests at once on each stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
from tests.fakes.triton_service import ALONE, HOST, chunk, failure, tensors
from tritonclient.grpc import model_config_pb2
from tritonclient.grpc import service_pb2 as messages
from tritonclient.grpc.service_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)

Send = Callable[[messages.ModelStreamInferResponse], None]
Script = Callable[[messages.ModelInferRequest, Send], Awaitable[None]]


class ManyRequestsTriton(GRPCInferenceServiceServicer):
    """Answers each request by `script`; what it is asked to cancel, it cancels."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[messages.ModelInferRequest] = []
        self.cancelled: list[str] = []
        self.settings: dict[str, str] = {}
        """Parameters in the config of its model."""
        self.timeouts_s: list[float | None] = []
        """What calls of models that answer once have."""
        self.num_streams = 0
        self.metadata: dict[str, str] = {}
        self.url = ""
        self._running: dict[str, asyncio.Task[None]] = {}

    async def ModelStreamInfer(self, request_iterator, context):
        self.num_streams += 1
        self.metadata = dict(context.invocation_metadata())
        outgoing: asyncio.Queue[messages.ModelStreamInferResponse] = asyncio.Queue()
        reading = asyncio.ensure_future(self._read(request_iterator, outgoing))
        try:
            while True:
                yield await outgoing.get()
        finally:
            reading.cancel()

    async def RepositoryIndex(self, request, context):
        index = messages.RepositoryIndexResponse()
        index.models.add(name="generate", version="1", state="READY")
        return index

    async def ModelConfig(self, request, context):
        config = model_config_pb2.ModelConfig(name=request.name)
        config.model_transaction_policy.decoupled = True
        for name in ("text_input", "messages", "input_ids"):
            config.input.add(name=name)
        for name, value in self.settings.items():
            config.parameters[name].string_value = value
        return messages.ModelConfigResponse(config=config)

    async def ModelInfer(self, request, context):
        self.timeouts_s.append(context.time_remaining())
        return messages.ModelInferResponse()

    async def _read(self, request_iterator, outgoing):
        async for request in request_iterator:
            def send(response, request=request):
                response.infer_response.id = request.id
                outgoing.put_nowait(response)

            given = tensors(request)
            if given.get("cancel") == [[True]]:
                self._cancel(given["request_id"][0][0].decode(), send)
            else:
                self.requests.append(request)
                self._running[request.id] = asyncio.ensure_future(self._run(request, send))

    async def _run(self, request, send):
        try:
            await self.script(request, send)
        except asyncio.CancelledError:
            send(chunk("", finish_reason="cancelled", is_final=True))
        finally:
            del self._running[request.id]

    def _cancel(self, request_id, send):
        if request_id not in self._running:
            send(failure(f"NOT_FOUND: request_id: no request {request_id!r} is running"))
            return
        self._running[request_id].cancel()
        self.cancelled.append(request_id)
        send(chunk("", finish_reason="cancelled", is_final=True))


@asynccontextmanager
async def serve(
    script: Script, url: str = f"{HOST}:0", credentials: grpc.ServerCredentials | None = None
) -> AsyncIterator[ManyRequestsTriton]:
    """A service that listens at its `url` until `stop` or the end of the block."""
    server = grpc.aio.server(options=ALONE)
    service = ManyRequestsTriton(script)
    add_GRPCInferenceServiceServicer_to_server(service, server)
    port = (server.add_insecure_port(url) if credentials is None
            else server.add_secure_port(url, credentials))
    # A certificate is for a name.
    service.url = f"{HOST if credentials is None else 'localhost'}:{port}"
    service.stop = lambda: server.stop(grace=None)
    await server.start()
    try:
        yield service
    finally:
        await server.stop(grace=None)
