"""Reads the metrics of servers, so that requests go where there is least to do."""

from __future__ import annotations

import threading
from typing import Any

import httpx2

from tritonlm_client.balancing.load import Load, LoadMeter
from tritonlm_client.servers import Servers

INTERVAL_S = 1.0
TIMEOUT_S = 2.0


class LoadWatch:
    """Looks once a second, in a thread, at the servers whose metrics' port is known."""

    def __init__(self, servers: Servers[Any]) -> None:
        self._servers = servers
        self._meters = {address: LoadMeter() for address in servers.transports
                        if address.metrics_url is not None}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="load-watch", daemon=True)
        if self._meters:
            self._thread.start()

    def close(self) -> None:
        """Look no more; the thread ends by itself."""
        self._closed.set()

    def _watch(self) -> None:
        with httpx2.Client(timeout=TIMEOUT_S, trust_env=False) as http:
            while not self._closed.is_set():
                for address, meter in self._meters.items():
                    self._servers.set_load(address, _read(http, address.metrics_url, meter))
                self._closed.wait(INTERVAL_S)


def _read(http: httpx2.Client, url: str | None, meter: LoadMeter) -> Load | None:
    try:
        return meter.read(http.get(url or "").raise_for_status().text)
    except (httpx2.HTTPError, OSError):
        return None
