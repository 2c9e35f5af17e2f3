"""A Triton server as a worker of the gateway sees it: a channel, a few streams, its models."""

from __future__ import annotations

import hashlib
import json
from functools import partial

import grpc
from tritonclient.grpc import service_pb2 as messages
from tritonclient.grpc.model_config_pb2 import ModelConfig
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from tritonlm.contract import PROMPT
from tritonlm.errors import Unavailable
from tritonlm.gateway.settings import GatewaySettings, ServerAddress
from tritonlm.gateway.stream import TritonStream, server_lost
from tritonlm_client.connection import CALL_TIMEOUT_S, CHANNEL_OPTIONS
from tritonlm_client.errors import from_message

STATUS_TIMEOUT_S = 2.0
"""How long a server may take to say how it is."""
LOST_CODES = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
OF_A_RUN = frozenset({"run_dir", "server_url"})
"""Settings of a model that say nothing about its answers."""
PROMPT_NAMES = {tensor.name for tensor in PROMPT}


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
    def stream(self) -> TritonStream:
        """The stream with the least to do."""
        return min(self._streams, key=lambda stream: stream.num_unfinished)

    @property
    def num_unfinished(self) -> int:
        """Requests of this worker that the server works on."""
        return sum(stream.num_unfinished for stream in self._streams)

    async def infer(self, request: messages.ModelInferRequest) -> messages.ModelInferResponse:
        """The one response of a model that is not decoupled; raises `ServingError`."""
        try:
            return await self._stub.ModelInfer(request, timeout=CALL_TIMEOUT_S,
                                               metadata=self._metadata)
        except grpc.RpcError as error:
            if error.code() in LOST_CODES:
                raise server_lost(self.address.grpc_url, error) from None
            raise from_message(error.details()) from None

    async def models(self) -> set[str]:
        """The models that are ready and take any kind of prompt; raises `Unavailable`."""
        try:
            index = await self._stub.RepositoryIndex(
                messages.RepositoryIndexRequest(ready=True), timeout=STATUS_TIMEOUT_S,
                metadata=self._metadata)
            self._configs = {entry: self._configs.get(entry) or await self._config(*entry)
                             for entry in ((model.name, model.version) for model in index.models)}
        except grpc.RpcError as error:
            raise Unavailable(str(error.details())) from None
        return {name for (name, _), config in self._configs.items() if _takes_prompts(config)}

    def identities(self, model: str) -> set[str]:
        """What tells the versions of `model` apart that were ready at the last look."""
        return {f"{model}:{version}:{_digest(config)}"
                for (name, version), config in self._configs.items() if name == model}

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


def _takes_prompts(config: ModelConfig) -> bool:
    return (config.model_transaction_policy.decoupled
            and {tensor.name for tensor in config.input} >= PROMPT_NAMES)


def _digest(config: ModelConfig) -> str:
    """The same for the same settings, whatever folder a server runs in."""
    settings = {name: value.string_value for name, value in config.parameters.items()
                if name not in OF_A_RUN}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
