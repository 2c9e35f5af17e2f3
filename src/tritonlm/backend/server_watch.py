"""Notices that the model is being unloaded, or the server told to stop, while requests run.

Triton tells a model only when its last request has ended, however long that takes.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from urllib.parse import urlsplit

INTERVAL_S = 0.3
TIMEOUT_S = 2.0
NUM_REFUSALS = 3
"""In a row: less may be the moment in which another version of the model is loaded."""


class ServerWatch:
    """A thread that asks the server at `url` whether it still serves a version of a model.

    It calls `on_end` once, when the model is served no longer. Started with the first request,
    since a model that gets one is served.
    """

    def __init__(self, url: str, model: str, version: str, on_end: Callable[[], None]) -> None:
        self._address = urlsplit(url)
        self._path = f"/v2/models/{model}/versions/{version}/ready"
        self._on_end = on_end
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="server watch", daemon=True)

    def ensure_started(self) -> None:
        """Begin to ask, the first time."""
        if self._thread.ident is None:
            self._thread.start()

    def stop(self) -> None:
        """Ask no more."""
        self._is_stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        num_refusals = 0
        while not self._is_stopping.wait(INTERVAL_S):
            is_served = self._ask()
            if is_served is None:
                continue
            num_refusals = 0 if is_served else num_refusals + 1
            if num_refusals == NUM_REFUSALS:
                self._on_end()
                return

    def _ask(self) -> bool | None:
        """Whether the model is served; None if that is not known: the server may be busy."""
        connection = http.client.HTTPConnection(self._address.hostname or "localhost",
                                                self._address.port, timeout=TIMEOUT_S)
        try:
            connection.request("GET", self._path, headers={"Connection": "close"})
            status = connection.getresponse().status
        except ConnectionError:  # a server that is told to stop takes no connections any more
            return False
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        return {http.HTTPStatus.OK: True, http.HTTPStatus.BAD_REQUEST: False}.get(
            http.HTTPStatus(status))
