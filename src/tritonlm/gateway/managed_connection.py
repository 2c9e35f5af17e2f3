"""A server whose models are loaded on demand, as a worker of the gateway sees it."""

from __future__ import annotations

import asyncio

from tritonclient.grpc import service_pb2 as messages

from tritonlm.errors import Unavailable
from tritonlm.gateway.connection import STATUS_TIMEOUT_S, TritonConnection
from tritonlm.gateway.leased_stream import LeasedStream
from tritonlm.gateway.settings import GatewaySettings, ServerAddress
from tritonlm.manager.client import ManagerClient
from tritonlm_client.connection import CALL_TIMEOUT_S


def connect(address: ServerAddress, settings: GatewaySettings) -> TritonConnection:
    """The connection to a server, with or without a manager."""
    kind = TritonConnection if address.manager_port is None else ManagedConnection
    return kind(address, settings)


class ManagedConnection(TritonConnection):
    """Asks the server's model manager for each model before a request is sent."""

    def __init__(self, address: ServerAddress, settings: GatewaySettings) -> None:
        super().__init__(address, settings)
        assert address.manager_port is not None
        self._manager = ManagerClient(address.host.strip("[]"), address.manager_port)
        self._leased = [LeasedStream(stream, self._manager) for stream in self._streams]
        self._identities: dict[str, str] = {}

    @property
    def stream(self) -> LeasedStream:
        """The stream with the least to do."""
        return min(self._leased, key=lambda stream: stream.num_unfinished)

    @property
    def num_unfinished(self) -> int:
        """Requests of this worker that the server works on, or loads a model for."""
        return sum(stream.num_unfinished for stream in self._leased)

    async def infer(
        self, request: messages.ModelInferRequest, timeout_s: float | None = CALL_TIMEOUT_S
    ) -> messages.ModelInferResponse:
        """The one response of a model that is not decoupled; raises `ServingError`."""
        lease = await self._manager.lease(request.model_name, request.id)
        try:
            return await super().infer(request, timeout_s)
        finally:
            lease.release()

    async def models(self) -> dict[str, str]:
        """The tasks of all models that can be loaded, by their names; raises `Unavailable`."""
        try:  # one that hangs would hold up the look at all servers
            status = await asyncio.wait_for(self._manager.status(), STATUS_TIMEOUT_S)
        except asyncio.TimeoutError:
            raise Unavailable(f"its manager has said nothing for {STATUS_TIMEOUT_S:g} s") from None
        self._identities = {model.name: model.identity for model in status.models}
        return {model.name: model.task for model in status.models}

    def identities(self, model: str) -> set[str]:
        """What tells the versions of `model` apart that were there at the last look."""
        return {self._identities[model]} if model in self._identities else set()

    def part(self, model: str, helper: str) -> str:
        """What Triton calls the helper of `model`."""
        return f"{model}_{helper}"

    async def close(self) -> None:
        """End what waits or runs, and the connections."""
        for stream in self._leased:
            await stream.close()
        await self._manager.close()
        await super().close()
