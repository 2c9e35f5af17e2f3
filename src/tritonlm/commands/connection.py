"""How a command reaches its server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tritonlm.errors import NotFound, Unavailable
from tritonlm_client import Client


@contextmanager
def connect(url: str, model: str) -> Iterator[Client]:
    """A client; where no server answers, or none has the model, the error says what to do."""
    with Client(url, model) as client:
        try:
            yield client
        except NotFound as error:
            raise NotFound(f"{error.message}; `tritonlm models` lists those there are") from None
        except Unavailable:
            if client.is_live():
                raise
            raise no_server(url) from None


def no_server(url: str) -> Unavailable:
    """The error of a server that does not answer."""
    return Unavailable(f"no server answers at {url}; `make serve` starts one here")
