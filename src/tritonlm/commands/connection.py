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
        except (NotFound, Unavailable) as error:
            if not client.is_live():
                raise no_server(url) from None
            if isinstance(error, Unavailable):
                raise
            raise NotFound(f"{error.message}; `tritonlm models` lists those there are") from None


def no_server(url: str) -> Unavailable:
    """The error of a server that does not answer."""
    return Unavailable(f"no Triton server answers at {url}: HOST:PORT is its gRPC port, "
                       "http://HOST:PORT that of HTTP; `make serve` starts one here")
