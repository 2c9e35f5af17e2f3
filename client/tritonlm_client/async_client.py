"""The client for asyncio: as `tritonlm_client.client`, one to an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import cached_property, partial
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as messages
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from tritonlm.errors import NotFound, ServingError
from tritonlm_client.connection import CALL_TIMEOUT_S, CHANNEL_OPTIONS
from tritonlm_client.errors import from_rpc, rpc_errors
from tritonlm_client.requests import CANCEL_MODELS, Prompt, cancel_request, generation_request
from tritonlm_client.responses import Answer, model_info
from tritonlm_client.results import Chunk, Completion, ModelInfo


class AsyncStream:
    """An answer that is coming: iterate over its chunks with `async for`, once.

    Leaving the loop early, the end of the task, `cancel`, and the end of an `async with` block
    all make the server stop.
    """

    def __init__(
        self, url: str, request_id: str, call: Any, cancel: Callable[[], Awaitable[None]]
    ) -> None:
        self.request_id = request_id
        self._url = url
        self._call = call
        self._cancel = cancel
        self._answer = Answer()
        self._is_cancelled = False

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        """The chunks as they come; raises `ServingError`."""
        try:
            async for response in self._call:
                for chunk in self._answer.read(response):
                    yield chunk
            self._answer.end()
        except grpc.RpcError as error:
            raise from_rpc(self._url, error) from None
        except asyncio.CancelledError:  # the task's, or gRPC's word for our own hang-up
            if not self._is_cancelled:
                raise
        finally:
            await self.cancel()

    async def cancel(self) -> None:
        """Hang up: the server stops, and iteration ends without an error; any task may do it."""
        if not (self._is_cancelled or self._answer.is_finished):
            self._is_cancelled = True
            self._call.cancel()
            await self._cancel()

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cancel()


class AsyncClient:
    """Talks to the gRPC port of one server; the connection is made by the first call."""

    def __init__(self, url: str = "localhost:8001", model: str = "generate") -> None:
        self.url = url
        self.model = model

    async def generate(
        self, prompt: Prompt, *, timeout_s: float | None = None, **options: Any
    ) -> Completion:
        """The whole answer to `prompt`: see `Client.generate`."""
        request = generation_request(self.model, prompt, options, False)
        async with self._open(request, timeout_s) as stream:
            return Completion.join(stream.request_id, [chunk async for chunk in stream])

    def stream(
        self, prompt: Prompt, *, timeout_s: float | None = None, **options: Any
    ) -> AsyncStream:
        """The answer to `prompt` in chunks as they come; needs a running event loop."""
        return self._open(generation_request(self.model, prompt, options, True), timeout_s)

    async def cancel(self, request_id: str) -> bool:
        """End the request of that id, whoever made it; False if nothing of that id runs."""
        request = cancel_request(self.model, request_id)
        try:
            with rpc_errors(self.url):
                call = self._stub.ModelStreamInfer(iter([request]), timeout=CALL_TIMEOUT_S)
                async for response in call:
                    Answer().read(response)
        except NotFound:
            return False
        return True

    async def models(self) -> list[ModelInfo]:
        """The models of the server's repositories; raises `Unavailable` without a server."""
        with rpc_errors(self.url):
            index = await self._stub.RepositoryIndex(messages.RepositoryIndexRequest(),
                                                     timeout=CALL_TIMEOUT_S)
            return [model_info(entry, await self._config(entry)) for entry in index.models]

    async def is_live(self) -> bool:
        """Whether a server answers."""
        try:
            reply = await self._stub.ServerLive(messages.ServerLiveRequest(),
                                                timeout=CALL_TIMEOUT_S)
        except grpc.RpcError:
            return False
        return bool(reply.live)

    async def is_ready(self) -> bool:
        """Whether the server says that it and the model are ready; False without a server."""
        try:
            server = await self._stub.ServerReady(messages.ServerReadyRequest(),
                                                  timeout=CALL_TIMEOUT_S)
            model = await self._stub.ModelReady(messages.ModelReadyRequest(name=self.model),
                                                timeout=CALL_TIMEOUT_S)
        except grpc.RpcError:
            return False
        return bool(server.ready and model.ready)

    async def close(self) -> None:
        """End what still runs, and the connection."""
        await self._channel.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @cached_property
    def _channel(self) -> Any:
        """Made late, because it belongs to the event loop that runs."""
        return grpc.aio.insecure_channel(self.url, options=CHANNEL_OPTIONS)

    @cached_property
    def _stub(self) -> Any:
        return GRPCInferenceServiceStub(self._channel)

    def _open(self, request: messages.ModelInferRequest, timeout_s: float | None) -> AsyncStream:
        call = self._stub.ModelStreamInfer(iter([request]), timeout=timeout_s)
        return AsyncStream(self.url, request.id, call, partial(self._cancel_inside, request.id))

    async def _cancel_inside(self, request_id: str) -> None:
        """Where a hang-up does not reach the running request, cancel it by its id."""
        if self.model in CANCEL_MODELS:
            with suppress(ServingError):
                await self.cancel(request_id)

    async def _config(self, entry: Any) -> Any:
        if entry.state != "READY":
            return None
        request = messages.ModelConfigRequest(name=entry.name, version=entry.version)
        return (await self._stub.ModelConfig(request, timeout=CALL_TIMEOUT_S)).config
