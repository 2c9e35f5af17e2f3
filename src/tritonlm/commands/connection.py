"""How a command reaches its server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tritonlm.errors import Unavailable
from tritonlm_client import Client


@contextmanager
def connect(url: str, model: str) -> Iterator[Client]:
    """A client; where no server answers, the error says so and what to do."""
    with Client(url, model) as client:
        try:
            yield client
        except Unavailable:
            if client.is_live():
                raise
            raise no_server(url) from None


def no_server(url: str) -> Unavailable:
    """The error of a server that does not answer."""
    return Unavailable(f"no server answers at {url}; `make serve` starts one here")
