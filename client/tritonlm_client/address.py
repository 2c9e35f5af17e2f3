"""Where a server is: `HOST:PORT` for gRPC, `http://HOST:PORT` for HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tritonlm.errors import InvalidArgument

MAX_PORT = 65535
SCHEMES = ("grpc", "grpcs", "http", "https")
FORM = ("HOST:PORT, with grpcs://, http:// or https:// before it where that is meant, and with "
        ":METRICS_PORT after it to balance by the server's load")


@dataclass(frozen=True)
class Address:
    """A server's address and the protocol that it speaks there."""

    scheme: str
    """One of `SCHEMES`; the first is meant by a text without one."""
    target: str
    """Host and port."""
    metrics_url: str | None = None
    """Page of its Prometheus metrics."""

    @classmethod
    def parse(cls, text: str) -> Address:
        """The address that `text` says; raises `InvalidArgument`."""
        scheme, separator, rest = text.strip().rpartition("://")
        host, *ports = split_address(rest.removesuffix("/"))
        scheme = scheme if separator else SCHEMES[0]
        if scheme not in SCHEMES or not host or len(ports) not in {1, 2} or not all(
                map(is_port, ports)):
            raise InvalidArgument("servers", text, f"it must be {FORM}")
        metrics_url = f"http://{host}:{ports[1]}/metrics" if len(ports) > 1 else None
        return cls(scheme, f"{host}:{ports[0]}", metrics_url)

    @property
    def url(self) -> str:
        """How errors name it."""
        return self.target if self.scheme == SCHEMES[0] else f"{self.scheme}://{self.target}"

    @property
    def is_http(self) -> bool:
        """Whether it is a server's HTTP port, not that of gRPC."""
        return self.scheme.startswith("http")

    @property
    def is_secure(self) -> bool:
        """Whether it is talked to over TLS."""
        return self.scheme.endswith("s")


def addresses_of(servers: str | Sequence[str], connections: int) -> list[Address]:
    """The addresses that a client is given; raises `InvalidArgument`."""
    texts = servers.split(",") if isinstance(servers, str) else servers
    if not texts:
        raise InvalidArgument("servers", servers, "give at least one")
    if connections < 1:
        raise InvalidArgument("connections", connections, "allowed: 1 and more")
    return list(dict.fromkeys(map(Address.parse, texts)))


def split_address(text: str) -> list[str]:
    """Host and ports; an IPv6 host is in brackets."""
    bracketed, bracket, rest = text.rpartition("]")
    host, *ports = rest.split(":")
    return [bracketed + bracket + host, *ports]


def is_port(text: str) -> bool:
    """Whether a client can connect to a port that is called so."""
    return text.isdecimal() and 1 <= int(text) <= MAX_PORT
