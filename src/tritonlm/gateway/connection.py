"""A Triton server as a worker of the gateway sees it: a channel, a few streams, its models."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from functools import partial

import grpc
from tritonclient.grpc import service_pb2 as messages
from tritonclient.grpc.model_config_pb2 import ModelConfig
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from tritonlm import contract
from tritonlm.errors import Unavailable
from tritonlm.gateway.leased_stream import LeasedStream
from tritonlm.gateway.settings import GatewaySettings, ServerAddress
from tritonlm.gateway.stream import TritonStream, server_lost
from tritonlm.gateway.upstream import hand_on
from tritonlm_client.connection import CALL_TIMEOUT_S, CHANNEL_OPTIONS
from tritonlm_client.errors import from_message

STATUS_TIMEOUT_S = 2.0
"""How long a server may take to say how it is."""
LOST_CODES = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
ANSWERED = re.compile(r"\[request id: [^]]*\] ")
"""What a server says itself, of a queue that is full for example, begins so."""
OF_A_RUN = frozenset({"run_dir", "server_url"})
"""Settings of a model that say nothing about its answers."""
GENERATE = "generate"
"""The task of the models that stream text; the others are named in the contract."""


class TritonConnection:
    """Connects to the gRPC port of one server; belongs to one event loop."""

    def __init__(self, address: ServerAddress, settings: GatewaySettings) -> None:
        self.address = address
        self._metadata = settings.server_metadata
        self._channel = _channel(address, settings)
        self._stub = GRPCInferenceServiceStub(self._channel)
        open_stream = partial(self._stub.ModelStreamInfer, metadata=self._metadata)
        self._streams = [TritonStream(address.grpc_url, open_stream)
                         for _ in range(settings.streams)]
        self._configs: dict[tuple[str, str], ModelConfig] = {}
        """Of each version of each model that is ready."""

    @property
    def stream(self) -> TritonStream | LeasedStream:
        """The stream with the least to do."""
        return min(self._streams, key=lambda stream: stream.num_unfinished)

    @property
    def num_unfinished(self) -> int:
        """Requests of this worker that the server works on."""
        return sum(stream.num_unfinished for stream in self._streams)

    async def infer(
        self, request: messages.ModelInferRequest, timeout_s: float | None = CALL_TIMEOUT_S
    ) -> messages.ModelInferResponse:
        """The one response of a model that is not decoupled; raises `ServingError`."""
        hand_on(request)
        try:
            return await self._stub.ModelInfer(request, timeout=timeout_s,
                                               metadata=self._metadata)
        except grpc.RpcError as error:
            if error.code() in LOST_CODES and not ANSWERED.match(error.details() or ""):
                raise server_lost(self.address.grpc_url, error, [request.id]) from None
            raise from_message(ANSWERED.sub("", error.details(), count=1)) from None

    async def models(self) -> dict[str, str]:
        """The tasks of the models that are ready and take any kind of prompt, by their names.

        Raises `Unavailable`.
        """
        try:
            index = await self._stub.RepositoryIndex(
                messages.RepositoryIndexRequest(ready=True), timeout=STATUS_TIMEOUT_S,
                metadata=self._metadata)
            # Always read anew: a model that is loaded again with other settings stays ready.
            entries = [(model.name, model.version) for model in index.models]
            self._configs = dict(zip(entries, await asyncio.gather(
                *(self._config(*entry) for entry in entries)), strict=True))
        except grpc.RpcError as error:
            raise Unavailable(str(error.details())) from None
        tasks = {name: task_of(config) for (name, _), config in self._configs.items()}
        return {name: task for name, task in tasks.items() if task is not None}

    def identities(self, model: str) -> set[str]:
        """What tells the versions of `model` apart that were ready at the last look."""
        return {f"{model}:{version}:{_digest(config)}"
                for (name, version), config in self._configs.items() if name == model}

    def has_levels(self, model: str) -> bool:
        """Whether Triton's queue of `model` may have levels of priority: not if seen without."""
        configs = [config for (name, _), config in self._configs.items() if name == model]
        return not configs or any(config.dynamic_batching.priority_levels for config in configs)

    def part(self, model: str, helper: str) -> str:
        """What Triton calls the helper of `model`, tokenize or detokenize."""
        return helper

    def hang_up(self) -> None:
        """End the streams on which nothing runs; the next request opens one again."""
        for stream in self._streams:
            stream.hang_up()

    async def close(self) -> None:
        """End what still runs, and the connection."""
        for stream in self._streams:
            await stream.close()
        await self._channel.close()

    async def _config(self, model: str, version: str) -> ModelConfig:
        reply = await self._stub.ModelConfig(
            messages.ModelConfigRequest(name=model, version=version), timeout=STATUS_TIMEOUT_S,
            metadata=self._metadata)
        return reply.config


def _channel(address: ServerAddress, settings: GatewaySettings) -> grpc.aio.Channel:
    if not settings.tls:
        return grpc.aio.insecure_channel(address.grpc_url, options=CHANNEL_OPTIONS)
    files = (settings.tls_ca, settings.tls_key, settings.tls_cert)
    credentials = grpc.ssl_channel_credentials(*(
        None if file is None else file.read_bytes() for file in files))
    name = ([("grpc.ssl_target_name_override", address.looked_up_as)]
            if address.looked_up_as else [])  # certificates are for the name, not the address
    return grpc.aio.secure_channel(address.grpc_url, credentials,
                                   options=[*CHANNEL_OPTIONS, *name])


def task_of(config: ModelConfig) -> str | None:
    """What a model does, if the gateway can use it."""
    return contract.task_of({tensor.name for tensor in config.input},
                            {tensor.name for tensor in config.output},
                            config.model_transaction_policy.decoupled)


def _digest(config: ModelConfig) -> str:
    """The same for the same settings, whatever folder a server runs in."""
    settings = {name: value.string_value for name, value in config.parameters.items()
                if name not in OF_A_RUN}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
