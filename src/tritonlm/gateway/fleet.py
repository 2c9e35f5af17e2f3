"""The Triton servers behind a gateway: which of them are well, and which one takes a request."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence

import aiohttp
from tritonclient.grpc.service_pb2 import ModelInferRequest

from tritonlm.errors import EngineFailure, ServingError, Unavailable
from tritonlm.gateway.answers import Answers
from tritonlm.gateway.connection import GENERATE
from tritonlm.gateway.failures import ModelNotFound
from tritonlm.gateway.leased_stream import LeasedStream
from tritonlm.gateway.pieces import LENGTH_BYTES
from tritonlm.gateway.roster import Roster
from tritonlm.gateway.server import Server
from tritonlm.gateway.stream import TritonStream
from tritonlm.gateway.upstream import hand_on
from tritonlm.options import Options
from tritonlm_client.balancing.member import choose_member
from tritonlm_client.balancing.policy import BY_PRIORITY, prefix_of

LOG = logging.getLogger(__name__)
LOOK_INTERVAL_S = 1.0
PROMPT_INPUTS = frozenset({"text_input", "messages", "input_ids"})


class Fleet:
    """Watches the servers, and gives each request to one of them."""

    def __init__(self, roster: Roster, aliases: dict[str, str]) -> None:
        self._roster = roster
        self._aliases = aliases
        self._chance = random.Random()
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Look at every server once, and from now on every second."""
        self._http = aiohttp.ClientSession()
        await self._look()
        self._watch = asyncio.create_task(self._look_on())

    async def close(self) -> None:
        """End what still runs, and all connections."""
        if self._watch is not None:
            self._watch.cancel()
        await self._http.close()
        await self._roster.close()

    @property
    def _servers(self) -> list[Server]:
        return self._roster.servers

    @property
    def models(self) -> dict[str, str]:
        """Names under which models are served now, in order, and the task of each."""
        served = {name: task for server in self._servers for name, task in server.models.items()}
        served |= {alias: served[name] for alias, name in self._aliases.items() if name in served}
        return dict(sorted(served.items()))

    def resolve(self, name: str, task: str = GENERATE) -> str:
        """The model of that name, which is for `task`.

        Raises `NotFound`, or `Unavailable` if no server is there.
        """
        model = self._aliases.get(name, name)
        if not any(server.models for server in self._servers):
            raise Unavailable("no server is ready; retry later")
        if not any(server.models.get(model) == task for server in self._servers):
            able = [known for known, its_task in self.models.items() if its_task == task]
            raise ModelNotFound(
                f"the model {name!r} does not exist, or not for {task}; there are: "
                f"{', '.join(able) or 'none'}")
        return model

    def identity(self, model: str) -> list[str]:
        """What tells apart the versions of `model` that are served now, wherever they are."""
        model = self._aliases.get(model, model)
        return sorted(set().union(*(server.connection.identities(model)
                                    for server in self._servers)))

    def has_levels(self, model: str) -> bool:
        """Whether a priority may order those who wait for `model`, one that is not streamed."""
        model = self._aliases.get(model, model)
        able = [server for server in self._servers if model in server.models]
        return not able or any(server.connection.has_levels(model) for server in able)

    def open(self, requests: Sequence[ModelInferRequest], priority: str = "") -> Answers:
        """Send `requests`, all for one model, to a server that has it; raises `Unavailable`."""
        policy = BY_PRIORITY.get(priority or Options.priority, "normal")
        for request in requests:
            hand_on(request)
        return Answers(FleetRoute(self, requests[0], policy), requests)

    def choose(
        self, model: str, policy: str = "normal", prefix: bytes = b"",
        avoided: Sequence[Server] = (),
    ) -> Server:
        """A server that has `model`; one that is ejected only if there is no other."""
        able = [server for server in self._servers
                if model in server.models and server not in avoided]
        well = [server for server in able if not server.health.is_ejected] or able
        if not well:
            raise Unavailable(f"no server has the model {model} ready; retry later")
        return choose_member(well, policy, prefix, self._chance)

    async def _look_on(self) -> None:
        while True:
            await asyncio.sleep(LOOK_INTERVAL_S)
            try:
                await self._look()
            except Exception:
                LOG.exception("a look at the servers failed")

    async def _look(self) -> None:
        await self._roster.follow(lambda server: server.look(self._http))
        await asyncio.gather(*(server.look(self._http) for server in self._servers))


class FleetRoute:
    """To one server, and if that one fails before it has begun, to another."""

    def __init__(self, fleet: Fleet, request: ModelInferRequest, policy: str) -> None:
        self._fleet = fleet
        self._model = request.model_name
        self._policy = policy
        self._prefix = _prefix(request)
        self._server = fleet.choose(self._model, policy, self._prefix)
        self._server.health.begin()
        self._tried = [self._server]
        self._has_begun = False

    @property
    def stream(self) -> TritonStream | LeasedStream:
        """The stream of the server that was chosen last."""
        return self._server.connection.stream

    def begun(self, after_s: float) -> None:
        """The first piece has come."""
        self._has_begun = True
        self._server.begun(after_s)

    def failed(self, error: ServingError) -> bool:
        """Whether another server may do better."""
        if isinstance(error, Unavailable | EngineFailure):
            self._server.failed()
        if self._has_begun or not isinstance(error, Unavailable):
            return False
        try:
            self._server = self._fleet.choose(self._model, self._policy, avoided=self._tried)
        except Unavailable:
            return False
        self._server.health.begin()
        self._tried.append(self._server)
        return True


def _prefix(request: ModelInferRequest) -> bytes:
    """What the server is chosen by that may know the prompt's beginning."""
    prompt = next((raw for tensor, raw in zip(request.inputs, request.raw_input_contents,
                                              strict=True) if tensor.name in PROMPT_INPUTS), b"")
    return prefix_of(prompt[LENGTH_BYTES:])
