"""The Triton servers behind a gateway: which of them are well, and which one takes a request."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tritonclient.grpc.service_pb2 import ModelInferRequest

from tritonlm.errors import NotFound, ServingError, Unavailable
from tritonlm.gateway.answers import Answers
from tritonlm.gateway.connection import TritonConnection

LOOK_INTERVAL_S = 1.0


class Fleet:
    """Watches the servers, and gives each request to one of them."""

    def __init__(self, connections: Sequence[TritonConnection], aliases: dict[str, str]) -> None:
        self._connections = connections
        self._aliases = aliases
        self._models: dict[TritonConnection, set[str]] = {}
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Look at every server once, and from now on every second."""
        await self._look()
        self._watch = asyncio.create_task(self._look_on())

    async def close(self) -> None:
        """End what still runs, and all connections."""
        if self._watch is not None:
            self._watch.cancel()
        await asyncio.gather(*(connection.close() for connection in self._connections))

    @property
    def models(self) -> list[str]:
        """Names under which models are served now."""
        served = set().union(*self._models.values())
        return sorted(served | {alias for alias, name in self._aliases.items() if name in served})

    def resolve(self, name: str) -> str:
        """The model of that name; raises `NotFound`, or `Unavailable` if no server is there."""
        model = self._aliases.get(name, name)
        if not self._models:
            raise Unavailable("no server is ready; retry later")
        if not any(model in models for models in self._models.values()):
            raise NotFound(f"the model {name!r} does not exist; there are: "
                           f"{', '.join(self.models)}")
        return model

    def open(self, requests: Sequence[ModelInferRequest]) -> Answers:
        """Send `requests`, all for one model, to a server that has it."""
        return Answers(self.connection(requests[0].model_name).stream, requests)

    def connection(self, model: str) -> TritonConnection:
        """A server that has `model`; raises `Unavailable`."""
        able = [connection for connection, models in self._models.items() if model in models]
        if not able:
            raise Unavailable(f"no server has the model {model} ready; retry later")
        return min(able, key=lambda connection: connection.num_unfinished)

    async def _look_on(self) -> None:
        while True:
            await asyncio.sleep(LOOK_INTERVAL_S)
            await self._look()

    async def _look(self) -> None:
        found = await asyncio.gather(*map(_models_of, self._connections))
        self._models = {connection: models for connection, models
                        in zip(self._connections, found, strict=True) if models is not None}


async def _models_of(connection: TritonConnection) -> set[str] | None:
    try:
        return await connection.models()
    except ServingError:
        return None
