"""The client for code without asyncio; threads may share one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
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


class Stream:
    """An answer that is coming: iterate over its chunks, once.

    Leaving the loop early, `cancel`, and the end of a `with` block all make the server stop.
    """

    def __init__(self, url: str, request_id: str, call: Any, cancel: Callable[[], object]) -> None:
        self.request_id = request_id
        self._url = url
        self._call = call
        self._cancel = cancel
        self._answer = Answer()
        self._is_cancelled = False

    def __iter__(self) -> Iterator[Chunk]:
        """The chunks as they come; raises `ServingError`."""
        try:
            for response in self._call:
                yield from self._answer.read(response)
            self._answer.end()
        except grpc.RpcError as error:
            if not self._is_cancelled:
                raise from_rpc(self._url, error) from None
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Hang up: the server stops, and iteration ends without an error; any thread may do it."""
        if not (self._is_cancelled or self._answer.is_finished):
            self._is_cancelled = True
            self._call.cancel()
            self._cancel()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()


class Client:
    """Talks to the gRPC port of one server: `Client("localhost:8001", model="generate")`."""

    def __init__(self, url: str = "localhost:8001", model: str = "generate") -> None:
        self.url = url
        self.model = model
        self._channel = grpc.insecure_channel(url, options=CHANNEL_OPTIONS)
        self._stub = GRPCInferenceServiceStub(self._channel)

    def generate(
        self, prompt: Prompt, *, timeout_s: float | None = None, **options: Any
    ) -> Completion:
        """The whole answer to `prompt`; `options` are those of `tritonlm.options.Options`.

        Raises `InvalidArgument` for a value that is not allowed (before anything is sent where
        that can be seen), and `Unavailable` if no answer has come after `timeout_s`.
        """
        request = generation_request(self.model, prompt, options, False)
        with self._open(request, timeout_s) as stream:
            return Completion.join(stream.request_id, stream)

    def stream(self, prompt: Prompt, *, timeout_s: float | None = None, **options: Any) -> Stream:
        """The answer to `prompt` in chunks as they come; arguments and errors as for `generate`."""
        return self._open(generation_request(self.model, prompt, options, True), timeout_s)

    def cancel(self, request_id: str) -> bool:
        """End the request of that id, whoever made it; False if nothing of that id runs."""
        request = cancel_request(self.model, request_id)
        try:
            with rpc_errors(self.url):
                call = self._stub.ModelStreamInfer(iter([request]), timeout=CALL_TIMEOUT_S)
                for response in call:
                    Answer().read(response)
        except NotFound:
            return False
        return True

    def models(self) -> list[ModelInfo]:
        """The models of the server's repositories; raises `Unavailable` without a server."""
        with rpc_errors(self.url):
            index = self._stub.RepositoryIndex(messages.RepositoryIndexRequest(),
                                               timeout=CALL_TIMEOUT_S)
            return [model_info(entry, self._config(entry)) for entry in index.models]

    def is_live(self) -> bool:
        """Whether a server answers."""
        try:
            reply = self._stub.ServerLive(messages.ServerLiveRequest(), timeout=CALL_TIMEOUT_S)
        except grpc.RpcError:
            return False
        return bool(reply.live)

    def is_ready(self) -> bool:
        """Whether the server says that it and the model are ready; False without a server."""
        try:
            server = self._stub.ServerReady(messages.ServerReadyRequest(), timeout=CALL_TIMEOUT_S)
            model = self._stub.ModelReady(messages.ModelReadyRequest(name=self.model),
                                          timeout=CALL_TIMEOUT_S)
        except grpc.RpcError:
            return False
        return bool(server.ready and model.ready)

    def close(self) -> None:
        """End what still runs, and the connection."""
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, request: messages.ModelInferRequest, timeout_s: float | None) -> Stream:
        call = self._stub.ModelStreamInfer(iter([request]), timeout=timeout_s)
        return Stream(self.url, request.id, call, partial(self._cancel_inside, request.id))

    def _cancel_inside(self, request_id: str) -> None:
        """Where a hang-up does not reach the running request, cancel it by its id."""
        if self.model in CANCEL_MODELS:
            with suppress(ServingError):
                self.cancel(request_id)

    def _config(self, entry: Any) -> Any:
        if entry.state != "READY":
            return None
        request = messages.ModelConfigRequest(name=entry.name, version=entry.version)
        return self._stub.ModelConfig(request, timeout=CALL_TIMEOUT_S).config
