"""Which servers there are: those that are named one by one, and those behind a name in the DNS."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence

from tritonlm.gateway import metrics
from tritonlm.gateway.server import Server
from tritonlm.gateway.settings import ServerAddress

LOG = logging.getLogger(__name__)


class Roster:
    """The servers of now; belongs to one event loop."""

    def __init__(
        self, addresses: Sequence[ServerAddress], connect: Callable[[ServerAddress], Server]
    ) -> None:
        self._names = [address for address in addresses if address.is_looked_up]
        self._connect = connect
        self._found: dict[ServerAddress, Server] = {}
        self._leaving: list[Server] = []
        self._fixed = [connect(address) for address in addresses if not address.is_looked_up]

    @property
    def servers(self) -> list[Server]:
        """Those that may get requests."""
        return [*self._fixed, *self._found.values()]

    async def follow(self, look: Callable[[Server], Awaitable[None]]) -> None:
        """See whom the names stand for now.

        Who is new joins after a `look` at it; who is gone gets no more, and ends what it has begun.
        """
        found = await asyncio.gather(*map(_resolve, self._names))
        wanted = {address for name, each in zip(self._names, found, strict=True)
                  for address in (each if each is not None else self._known(name))}
        joining = {address: self._connect(address) for address in wanted - self._found.keys()}
        await asyncio.gather(*map(look, joining.values()))
        self._found |= joining
        for address in self._found.keys() - wanted:
            LOG.info("server %s has left", address.grpc_url)
            self._leaving.append(self._found.pop(address))
        await self._close_idle()

    async def close(self) -> None:
        """End what still runs, and all connections."""
        await asyncio.gather(*(server.connection.close()
                               for server in [*self.servers, *self._leaving]))

    def _known(self, name: ServerAddress) -> list[ServerAddress]:
        """A name that is not found says nothing: that its servers are gone shows by itself."""
        return [address for address in self._found if address.looked_up_as == name.host]

    async def _close_idle(self) -> None:
        idle = [server for server in self._leaving if not server.connection.num_unfinished]
        self._leaving = [server for server in self._leaving if server not in idle]
        for server in idle:
            await server.connection.close()
            metrics.forget_server(server.name)


async def _resolve(name: ServerAddress) -> list[ServerAddress] | None:
    """The addresses that `name` has now; None if it is not found."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            name.host, name.grpc_port, type=socket.SOCK_STREAM)
    except OSError:
        return None
    return [name.at(str(where[0])) for *_, where in found]
