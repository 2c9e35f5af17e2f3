"""gRPC, for code without asyncio."""

from __future__ import annotations

from collections.abc import Iterator
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


class GrpcCall:
    """An answer that is coming."""

    def __init__(self, transport: GrpcTransport, request: Request, call: Any) -> None:
        self._transport = transport
        self._request = request
        self._call = call
        self._answer = Answer()
        self._is_over = False
        self._is_cancelled = False

    def __iter__(self) -> Iterator[Chunk]:
        """The chunks; raises `ServingError`."""
        try:
            for response in self._call:
                yield from self._answer.read(response)
            self._answer.end()
        except grpc.RpcError as error:
            if not self._is_cancelled:
                failure = from_rpc(self._transport.url, error)
                self._is_over = not may_run_on(self._request, failure)
                raise failure from None

    def cancel(self) -> None:
        """Hang up; where the running request does not hear of that, cancel it by its id."""
        if self._is_cancelled or self._is_over or self._answer.is_finished:
            return
        self._is_cancelled = True
        self._call.cancel()
        if self._request.model in CANCEL_MODELS:
            with suppress(ServingError):
                self._transport.cancel(self._request.model, self._request.id,
                                       HANG_UP_TIMEOUT_S)


class GrpcTransport:
    """Channels to one server; threads may share it."""

    def __init__(self, address: Address, num_connections: int) -> None:
        self.url = address.url
        self._channels = open_channels(grpc, address, num_connections)
        # At once: a stub that is made of a closed channel ends the process.
        self._stubs = cycle([GRPCInferenceServiceStub(channel) for channel in self._channels])

    def stream(self, request: Request, timeout_s: float | None) -> GrpcCall:
        """The answer of a model of texts."""
        message, stub = request.as_protobuf(), self._stub
        call = (one_response.OneResponse(stub.ModelInfer.future(message, timeout=timeout_s))
                if request.model in one_response.MODELS
                else stub.ModelStreamInfer(iter([message]), timeout=timeout_s))
        return GrpcCall(self, request, call)

    def infer(self, request: Request, timeout_s: float | None) -> Tensors:
        """The answer of a model that answers once; raises `ServingError`."""
        with rpc_errors(self.url):
            return tensors_of(self._stub.ModelInfer(request.as_protobuf(), timeout=timeout_s))

    def cancel(
        self, model: str, request_id: str, timeout_s: float = CALL_TIMEOUT_S
    ) -> None:
        """End a request; raises `NotFound` if nothing of that id runs."""
        for _ in self.stream(cancel_request(model, request_id), timeout_s):
            pass

    def models(self) -> list[ModelInfo]:
        """The models of the server's repositories; raises `Unavailable`."""
        with rpc_errors(self.url):
            index = self._stub.RepositoryIndex(messages.RepositoryIndexRequest(),
                                               timeout=CALL_TIMEOUT_S)
            return [model_info(entry, self._config(entry)) for entry in index.models]

    def is_live(self) -> bool:
        """Whether the server answers."""
        try:
            return bool(self._stub.ServerLive(messages.ServerLiveRequest(),
                                              timeout=CALL_TIMEOUT_S).live)
        except grpc.RpcError:
            return False

    def is_ready(self, model: str) -> bool:
        """Whether the server and the model take requests."""
        try:
            server = self._stub.ServerReady(messages.ServerReadyRequest(), timeout=CALL_TIMEOUT_S)
            reply = self._stub.ModelReady(messages.ModelReadyRequest(name=model),
                                          timeout=CALL_TIMEOUT_S)
        except grpc.RpcError:
            return False
        return bool(server.ready and reply.ready)

    def close(self) -> None:
        """End what still runs, and the connections."""
        for channel in self._channels:
            channel.close()

    @property
    def _stub(self) -> Any:
        """That of the connection whose turn it is."""
        return next(self._stubs)

    def _config(self, entry: Any) -> Any:
        if entry.state != "READY":
            return None
        request = messages.ModelConfigRequest(name=entry.name, version=entry.version)
        return self._stub.ModelConfig(request, timeout=CALL_TIMEOUT_S).config
