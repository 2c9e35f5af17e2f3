"""Settings of the gateway, frozen once built.

Each is an option of `tritonlm gateway`, and may be in the environment: `--max-body-bytes` as
TRITONLM_GATEWAY_MAX_BODY_BYTES.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from tritonlm.caching.settings import CacheSettings
from tritonlm.config import require
from tritonlm.errors import InvalidArgument
from tritonlm.gateway.openai.tool_parsers import PARSERS
from tritonlm.logs import FORMS
from tritonlm_client.address import MAX_PORT, is_port, split_address

GATEWAY_ENV_PREFIX = "TRITONLM_GATEWAY_"
MAX_WORKERS = 64
DNS_PREFIX = "dns:"
ADDRESS_FORM = ("HOST:GRPC_PORT, or HOST:GRPC_PORT:METRICS_PORT to balance by the server's load, "
                "or with :MANAGER_PORT after it to have models loaded on demand; "
                "dns:HOST:... for a server at each address of a name")


@dataclass(frozen=True)
class ServerAddress:
    """Where a Triton server is, or several that have one name."""

    host: str
    """A name or an address; an IPv6 address is in brackets."""
    grpc_port: int
    metrics_port: int | None = None
    manager_port: int | None = None
    """Of the model manager, if the server has one."""
    is_looked_up: bool = False
    """Whether each address that the host has in the DNS is a server."""
    looked_up_as: str | None = None
    """The name that has led to this address, and that the server's certificate has."""

    @property
    def grpc_url(self) -> str:
        """Host and port."""
        return f"{self.host}:{self.grpc_port}"

    @property
    def metrics_url(self) -> str | None:
        """Page of its Prometheus metrics, if it has one."""
        return f"http://{self.host}:{self.metrics_port}/metrics" if self.metrics_port else None

    @classmethod
    def parse(cls, text: str) -> ServerAddress:
        """The address that `text` says; raises `InvalidArgument`."""
        host, *ports = split_address(text.strip().removeprefix(DNS_PREFIX))
        if not host or len(ports) not in {1, 2, 3} or not all(map(is_port, ports)):
            raise InvalidArgument("servers", text, f"it must be {ADDRESS_FORM}")
        others = [*map(int, ports[1:]), None, None]
        return cls(host, int(ports[0]), others[0], others[1],
                   is_looked_up=text.strip().startswith(DNS_PREFIX))

    def at(self, address: str) -> ServerAddress:
        """The server that this name stands for at `address`."""
        return ServerAddress(f"[{address}]" if ":" in address else address, self.grpc_port,
                             self.metrics_port, self.manager_port, looked_up_as=self.host)


@dataclass(frozen=True)
class GatewaySettings:
    """How a gateway is run."""

    servers: str = "localhost:8001:8002"
    """Triton servers, separated by commas: [dns:]HOST:GRPC_PORT[:METRICS_PORT[:MANAGER_PORT]]."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 is every address of the machine."""
    port: int = 9000
    """Port to listen on; 0 is any free one."""
    workers: int = 1
    """Processes that share the port; one carries some thousands of tokens a second."""
    streams: int = 2
    """gRPC streams from a worker to each server; each carries many requests."""
    model_names: str = ""
    """More names of models, separated by commas: NAME=MODEL, such as gpt-2=generate."""
    tool_parser: str = ""
    """Format in which the models call tools: hermes, llama3 or mistral; unset, they get none."""
    keys_file: Path | None = None
    """JSON file of API keys and their limits; without it, everybody is let in."""
    cors_origins: str = ""
    """Origins whose pages may call, separated by commas; * is all."""
    max_body_bytes: int = 4 * 1024 * 1024
    """Largest body of a request, or message of a WebSocket."""
    slow_reader_timeout_s: float = 60.0
    """How long a client may read nothing of what waits for it before its requests are cancelled."""
    log_format: str = "text"
    """text or json: lines of log for people, or JSON objects."""
    access_log: bool = True
    """Write a line of JSON on stderr for each request."""
    tls: bool = False
    """Talk to the servers over TLS."""
    tls_ca: Path | None = None
    """With TLS: file of the authorities to trust; without it, the machine's."""
    tls_cert: Path | None = None
    """With TLS: file of the certificate to show."""
    tls_key: Path | None = None
    """With TLS: file of the certificate's key."""
    server_header: str = ""
    """Sent with each call to a server: NAME=VALUE, as its restricted protocols ask for."""
    cache_mib: int = 0
    """Keep answers to deterministic requests in each worker's memory, so many MiB; 0: none."""
    cache_redis: str = ""
    """Keep them in Redis too: redis://HOST:PORT/DB; needs tritonlm[cache]."""
    cache_disk: Path | None = None
    """Keep them in this folder too; needs tritonlm[cache]."""
    cache_disk_mib: int = 1024
    """Size of that folder."""
    cache_ttl_s: float = 3600.0
    """How long an answer is kept."""
    drain_timeout_s: int = 30
    """How long a gateway that is told to stop waits for running requests."""

    def __post_init__(self) -> None:
        """Raise `InvalidArgument` for a value out of range."""
        require("port", self.port, 0 <= self.port <= MAX_PORT, f"0 to {MAX_PORT}")
        require("workers", self.workers, 1 <= self.workers <= MAX_WORKERS, f"1 to {MAX_WORKERS}")
        for name in ("streams", "max_body_bytes"):
            require(name, getattr(self, name), getattr(self, name) > 0, "1 and more")
        require("slow_reader_timeout_s", self.slow_reader_timeout_s,
                self.slow_reader_timeout_s > 0, "more than 0")
        require("drain_timeout_s", self.drain_timeout_s, self.drain_timeout_s >= 0, "0 and more")
        require("tool_parser", self.tool_parser, self.tool_parser in {"", *PARSERS},
                f"one of {', '.join(PARSERS)}, or none")
        require("log_format", self.log_format, self.log_format in FORMS,
                f"one of {', '.join(FORMS)}")
        require("servers", self.servers, bool(self.addresses), ADDRESS_FORM)
        require("tls_cert", self.tls_cert, (self.tls_cert is None) == (self.tls_key is None),
                "given together with tls_key")
        for name in ("tls_ca", "tls_cert"):
            require(name, getattr(self, name), self.tls or getattr(self, name) is None,
                    "given together with tls")
        require("server_header", "(hidden)",
                not self.server_header or bool(self.server_metadata), "NAME=VALUE")
        self.aliases  # noqa: B018 - raises for a text that is none
        self.cache  # noqa: B018 - so does this

    @property
    def addresses(self) -> tuple[ServerAddress, ...]:
        """The servers; raises `InvalidArgument`."""
        return tuple(ServerAddress.parse(text) for text in self.servers.split(",") if text.strip())

    @property
    def cache(self) -> CacheSettings:
        """Which answers are kept where; raises `InvalidArgument`."""
        return CacheSettings(self.cache_mib, self.cache_redis, self.cache_disk,
                             self.cache_disk_mib, self.cache_ttl_s)

    @property
    def server_metadata(self) -> tuple[tuple[str, str], ...]:
        """`server_header` as gRPC has it."""
        name, _, value = self.server_header.partition("=")
        return ((name.strip().lower(), value.strip()),) if name.strip() and value.strip() else ()

    @property
    def origins(self) -> list[str]:
        """The origins of `cors_origins`."""
        return [text.strip() for text in self.cors_origins.split(",") if text.strip()]

    @property
    def aliases(self) -> dict[str, str]:
        """Models by their further names; raises `InvalidArgument`."""
        pairs = [text.partition("=")[::2] for text in self.model_names.split(",") if text.strip()]
        for name, model in pairs:
            require("model_names", self.model_names, bool(name and model), "NAME=MODEL,...")
        return {name.strip(): model.strip() for name, model in pairs}


def check_environment(environ: Mapping[str, str]) -> None:
    """Raise `InvalidArgument` for a variable that looks like a setting and is none."""
    known = {GATEWAY_ENV_PREFIX + field.name.upper() for field in fields(GatewaySettings)}
    for name in environ:
        require(name, environ[name], not name.startswith(GATEWAY_ENV_PREFIX) or name in known,
                f"variables {', '.join(sorted(known))}")
