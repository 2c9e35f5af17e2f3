"""A server of the fleet: its connection, its load, its health."""

from __future__ import annotations

import asyncio
import logging

import aiohttp

from tritonlm.errors import Unavailable
from tritonlm.gateway import metrics
from tritonlm.gateway.connection import STATUS_TIMEOUT_S, TritonConnection
from tritonlm_client.balancing.load import Load, LoadMeter
from tritonlm_client.balancing.member import Member

LOG = logging.getLogger(__name__)


class Server(Member):
    """One of the servers; belongs to one event loop."""

    def __init__(self, connection: TritonConnection) -> None:
        super().__init__(connection.address.grpc_url)
        self.connection = connection
        self.models: dict[str, str] = {}
        """The tasks of the models that it serves now; nothing if it does not answer."""
        self._meter = LoadMeter()
        metrics.begin_server(self.name)

    @property
    def num_unfinished(self) -> int:
        """Requests of this worker that it works on."""
        return self.connection.num_unfinished

    def failed(self) -> None:
        """A request has failed through its fault."""
        num_ejections = self.health.num_ejections
        super().failed()
        metrics.SERVER_FAILURES.labels(self.name).inc()
        if self.health.num_ejections > num_ejections:
            metrics.SERVER_EJECTIONS.labels(self.name).inc()

    async def look(self, http: aiohttp.ClientSession) -> None:
        """See what it serves and how busy it is."""
        self.connection.hang_up()
        try:
            self.models = await self.connection.models()
        except Unavailable as error:
            if self.models:
                LOG.warning("server %s does not answer: %s", self.name, error.message)
            self.models = {}
        self.load = await self._read_load(http) if self.models else None
        metrics.SERVER_UP.labels(self.name).set(bool(self.models))

    async def _read_load(self, http: aiohttp.ClientSession) -> Load | None:
        """None if it has no metrics, or does not tell them."""
        if self.connection.address.metrics_url is None:
            return None
        try:
            timeout = aiohttp.ClientTimeout(STATUS_TIMEOUT_S)
            async with http.get(self.connection.address.metrics_url, timeout=timeout,
                                raise_for_status=True) as answer:
                return self._meter.read(await answer.text())
        except (aiohttp.ClientError, asyncio.TimeoutError, UnicodeDecodeError):
            return None
