"""The servers that a client knows, and the order in which a request goes to them."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Generic, TypeVar

from tritonlm.errors import InvalidArgument, Unavailable
from tritonlm_client.address import Address
from tritonlm_client.balancing.load import Load
from tritonlm_client.balancing.member import Member, choose_member
from tritonlm_client.balancing.policy import POLICIES

T = TypeVar("T")


def check_policy(policy: str) -> None:
    """Raise `InvalidArgument` for one that there is not."""
    if policy not in POLICIES:
        raise InvalidArgument("policy", policy, f"allowed: {', '.join(POLICIES)}")


class Server(Member, Generic[T]):
    """A model at a server: what is known of it, and the way there."""

    def __init__(self, address: Address, transport: T, clock_s: Callable[[], float]) -> None:
        super().__init__(address.url, clock_s)
        self.transport = transport
        self.unfinished: set[str] = set()
        """Ids of its requests."""

    @property
    def num_unfinished(self) -> int:
        """Requests of this client."""
        return len(self.unfinished)


class Servers(Generic[T]):
    """Chooses servers by a policy; each model has a circuit breaker at each server."""

    def __init__(
        self, addresses: Sequence[Address], connect: Callable[[Address], T], policy: str,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        check_policy(policy)
        self.transports = {address: connect(address) for address in addresses}
        self._policy = policy
        self._clock_s = clock_s
        self._chance = random.Random()
        self._by_model: dict[str, list[Server[T]]] = {}
        self._loads: dict[str, Load | None] = {}
        self._is_closed = False

    @property
    def url(self) -> str:
        """How they are named together."""
        return ", ".join(address.url for address in self.transports)

    def close(self) -> None:
        """There are no connections any more."""
        self._is_closed = True

    def check_open(self) -> None:
        """Raise `ValueError` if there are no connections any more."""
        if self._is_closed:
            raise ValueError("the client is closed")

    def of(self, model: str) -> list[Server[T]]:
        """All servers, as they are known for `model`."""
        if model not in self._by_model:
            self._by_model[model] = [Server(address, transport, self._clock_s)
                                     for address, transport in self.transports.items()]
            self._tell_loads()
        return self._by_model[model]

    def set_load(self, address: Address, load: Load | None) -> None:
        """What the metrics of a server say; None if they say nothing."""
        self._loads[address.url] = load
        self._tell_loads()

    def round(self, model: str, prefix: bytes = b"") -> Iterator[Server[T]]:
        """One server after the other, none twice; raises `Unavailable` if none is to be asked."""
        self.check_open()
        members = self.of(model)
        untried = members
        while well := [server for server in untried if not server.health.is_ejected]:
            server = choose_member(well, self._policy, prefix, self._chance)
            server.health.begin()
            yield server
            untried = [other for other in untried if other is not server]
        if len(untried) == len(members):
            wait_s = min(server.health.remaining_s for server in untried)
            raise Unavailable(f"{self.url}: {model} has failed again and again; "
                              f"retry in {math.ceil(wait_s)} s")

    def _tell_loads(self) -> None:
        for server in chain.from_iterable(tuple(self._by_model.values())):
            server.load = self._loads.get(server.name)
