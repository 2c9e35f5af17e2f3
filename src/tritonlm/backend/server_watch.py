"""Notices that the model is being unloaded, or the server told to stop, while requests run.

Triton tells a model only when its last request has ended, however long that takes.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Mapping
from enum import Enum
from urllib.parse import urlsplit

INTERVAL_S = 0.3
TIMEOUT_S = 2.0
NUM_REFUSALS = 3
"""In a row: less may be the moment in which another version of the model is loaded."""


class Answer(Enum):
    """What the server says of a version of a model."""

    SERVED = "served"
    UNLOADED = "unloaded"
    STOPPING = "stopping"


ANSWERS: Mapping[int, Answer] = {
    http.HTTPStatus.OK: Answer.SERVED, http.HTTPStatus.BAD_REQUEST: Answer.UNLOADED}
"""By the status of the server's response."""


class ServerWatch:
    """A thread that asks the server at `url` whether it still serves a version of a model.

    It calls `on_end` when the model is served no longer, with whether it was unloaded; and again
    when the server stops after that. Started with the first request, since a model that gets one
    is served.
    """

    def __init__(
        self, url: str, model: str, version: str, on_end: Callable[[bool], None]
    ) -> None:
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
        last, number = Answer.SERVED, 0
        while not self._is_stopping.wait(INTERVAL_S):
            answer = self._ask()
            if answer is None:
                continue
            last, number = answer, number + 1 if answer == last else 1
            if number != NUM_REFUSALS or answer == Answer.SERVED:
                continue
            self._on_end(answer == Answer.UNLOADED)
            if answer == Answer.STOPPING:
                return

    def _ask(self) -> Answer | None:
        """None if it is not known: the server may be busy."""
        connection = http.client.HTTPConnection(self._address.hostname or "localhost",
                                                self._address.port, timeout=TIMEOUT_S)
        try:
            connection.request("GET", self._path, headers={"Connection": "close"})
            status = connection.getresponse().status
        except ConnectionError:  # a server that is told to stop closes connections unanswered
            return Answer.STOPPING
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        return ANSWERS.get(status)
