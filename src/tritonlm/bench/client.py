"""What a client of any protocol can do."""

from __future__ import annotations

from typing import Any, Protocol

from tritonlm.bench.asks import Ask
from tritonlm.bench.load import Load
from tritonlm.bench.seen import Seen

CONNECT_TIMEOUT_S = 10.0


class Connection(Protocol):
    """Carries one request after the other."""

    async def open(self) -> None:
        """Connect; raises `Unavailable`."""

    async def run(self, request: Any) -> Seen:
        """Send `request` and read its answer to the end; what goes wrong is in what is seen."""

    async def close(self) -> None:
        """Disconnect in order; it may be opened again."""


class Client(Protocol):
    """Makes requests and connections of a protocol."""

    def __init__(self, load: Load) -> None: ...

    def request(self, ask: Ask) -> Any:
        """What goes over the wire for `ask`."""

    def connection(self) -> Connection:
        """A further connection, not opened yet."""

    async def close(self) -> None:
        """Let go of what the connections share."""
