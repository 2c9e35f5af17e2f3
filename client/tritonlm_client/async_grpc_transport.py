"""gRPC, for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from itertools import cycle
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as messages
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from tritonlm.errors import ServingError
from tritonlm_client import one_response
from tritonlm_client.address import Address
from tritonlm_client.connection import CALL_TIMEOUT_S, HANG_UP_TIMEOUT_S, open_channels
from tritonlm_client.errors import from_rpc, rpc_errors
from tritonlm_client.requests import CANCEL_MODELS, Request, cancel_request, may_run_on
from tritonlm_client.responses import Answer, model_info, tensors_of
from tritonlm_client.results import Chunk, ModelInfo
from tritonlm_client.transport import Tensors


class AsyncGrpcCall:
    """An answer that is coming."""

    def __init__(self, transport: AsyncGrpcTransport, request: Request, call: Any) -> None:
        self._transport = transport
        self._request = request
        self._call = call
        self._answer = Answer()
        self._is_over = False
        self._is_cancelled = False

    async def __aiter__(self) -> AsyncGenerator[Chunk, None]:
        """The chunks; raises `ServingError`."""
        try:
            async for response in self._call:
                for chunk in self._answer.read(response):
                    yield chunk
            self._answer.end()
        except grpc.RpcError as error:
            failure = from_rpc(self._transport.url, error)
            self._is_over = not may_run_on(self._request, failure)
            raise failure from None
        except asyncio.CancelledError:  # the task's, or gRPC's word for our own hang-up
            if not self._is_cancelled:
                raise

    async def cancel(self) -> None:
        """Hang up; where the running request does not hear of that, cancel it by its id."""
        if self._is_cancelled or self._is_over or self._answer.is_finished:
            return
        self._is_cancelled = True
        self._call.cancel()
        if self._request.model in CANCEL_MODELS:
            with suppress(ServingError):
                await self._transport.cancel(self._request.model, self._request.id,
                                             HANG_UP_TIMEOUT_S)


class AsyncGrpcTransport:
    """Channels to one server; made where an event loop runs."""

    def __init__(self, address: Address, num_connections: int) -> None:
        self.url = address.url
        self._channels = open_channels(grpc.aio, address, num_connections)
        # At once: a stub that is made of a closed channel ends the process.
        self._stubs = cycle([GRPCInferenceServiceStub(channel) for channel in self._channels])

    def stream(self, request: Request, timeout_s: float | None) -> AsyncGrpcCall:
        """The answer of a model of texts."""
        message, stub = request.as_protobuf(), self._stub
        call = (one_response.AsyncOneResponse(stub.ModelInfer(message, timeout=timeout_s))
                if request.model in one_response.MODELS
                else stub.ModelStreamInfer(iter([message]), timeout=timeout_s))
        return AsyncGrpcCall(self, request, call)

    async def infer(self, request: Request, timeout_s: float | None) -> Tensors:
        """The answer of a model that answers once; raises `ServingError`."""
        with rpc_errors(self.url):
            return tensors_of(await self._stub.ModelInfer(request.as_protobuf(), timeout=timeout_s))

    async def cancel(
        self, model: str, request_id: str, timeout_s: float = CALL_TIMEOUT_S
    ) -> None:
        """End a request; raises `NotFound` if nothing of that id runs."""
        async for _ in self.stream(cancel_request(model, request_id), timeout_s):
            pass

    async def models(self) -> list[ModelInfo]:
        """The models of the server's repositories; raises `Unavailable`."""
        with rpc_errors(self.url):
            index = await self._stub.RepositoryIndex(messages.RepositoryIndexRequest(),
                                               timeout=CALL_TIMEOUT_S)
            return [model_info(entry, await self._config(entry)) for entry in index.models]

    async def is_live(self) -> bool:
        """Whether the server answers."""
        try:
            reply = await self._stub.ServerLive(messages.ServerLiveRequest(),
                                                timeout=CALL_TIMEOUT_S)
        except grpc.RpcError:
            return False
        return bool(reply.live)

    async def is_ready(self, model: str) -> bool:
        """Whether the server and the model take requests."""
        try:
            server = await self._stub.ServerReady(messages.ServerReadyRequest(),
                                                  timeout=CALL_TIMEOUT_S)
            reply = await self._stub.ModelReady(messages.ModelReadyRequest(name=model),
                                                timeout=CALL_TIMEOUT_S)
        except grpc.RpcError:
            return False
        return bool(server.ready and reply.ready)

    async def close(self) -> None:
        """End what still runs, and the connections."""
        for channel in self._channels:
            await channel.close()

    @property
    def _stub(self) -> Any:
        """That of the connection whose turn it is."""
        return next(self._stubs)

    async def _config(self, entry: Any) -> Any:
        if entry.state != "READY":
            return None
        request = messages.ModelConfigRequest(name=entry.name, version=entry.version)
        return (await self._stub.ModelConfig(request, timeout=CALL_TIMEOUT_S)).config
