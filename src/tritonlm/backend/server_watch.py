"""Notices that the model is being unloaded, or the server told to stop, while requests run.

Triton tells a model only when its last request has ended, however long that takes.
"""

from __future__ import annotations

import errno
import http.client
import threading
from collections.abc import Callable
from urllib.parse import urlsplit

INTERVAL_S = 0.5
TIMEOUT_S = 2.0
NUM_REFUSALS = 2
"""In a row: one alone may be the moment in which another version of the model is loaded."""


class ServerWatch:
    """A thread that asks the server at `url` whether it still serves a version of a model.

    It calls `on_end` once, when a model that was served is served no longer.
    """

    def __init__(self, url: str, model: str, version: str, on_end: Callable[[], None]) -> None:
        self._address = urlsplit(url)
        self._path = f"/v2/models/{model}/versions/{version}/ready"
        self._on_end = on_end
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="server watch", daemon=True)

    def start(self) -> None:
        """Begin to ask; the model may still be loading."""
        self._thread.start()

    def stop(self) -> None:
        """Ask no more."""
        self._is_stopping.set()
        self._thread.join()

    def _run(self) -> None:
        was_served, num_refusals = False, 0
        while not self._is_stopping.wait(INTERVAL_S):
            is_served = self._ask()
            if is_served is None:
                continue
            was_served = was_served or is_served
            num_refusals = 0 if is_served else num_refusals + 1
            if was_served and num_refusals == NUM_REFUSALS:
                self._on_end()
                return

    def _ask(self) -> bool | None:
        """Whether the model is served; None if that is not known: the server may be busy."""
        connection = http.client.HTTPConnection(self._address.hostname or "localhost",
                                                self._address.port, timeout=TIMEOUT_S)
        try:
            connection.request("GET", self._path, headers={"Connection": "close"})
            status = connection.getresponse().status
        except OSError as error:  # a server that is told to stop closes its port at once
            return False if error.errno == errno.ECONNREFUSED else None
        except http.client.HTTPException:
            return None
        finally:
            connection.close()
        return {http.HTTPStatus.OK: True, http.HTTPStatus.BAD_REQUEST: False}.get(
            http.HTTPStatus(status))
