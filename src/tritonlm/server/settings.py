"""Settings of the server itself, beside those of the model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tritonlm.errors import InvalidArgument

MAX_PORT = 65535
EXIT_MARGIN_S, INSTANCE_EXIT_S = 3, 2
"""What ending takes beyond the requests' time, by itself and for each front end."""


@dataclass(frozen=True)
class ServerSettings:
    """How one tritonserver is run."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 is every address of the machine."""
    http_port: int = 8000
    """Port of HTTP; 0 is any free one, for each of the ports."""
    grpc_port: int = 8001
    """Port of gRPC."""
    metrics_port: int = 8002
    """Port of the Prometheus metrics."""
    front_ends: int = 2
    """Instances of `generate`: each takes requests and sends tokens, about 10,000 a second."""
    embed_model: str | None = None
    """Checkpoint to serve embeddings of: a folder or a hub id; without it, there are none."""
    embed_settings: str = "{}"
    """JSON object of its settings, such as {"pooling": "cls"}; docs/tasks.md lists them."""
    rerank_model: str | None = None
    """Checkpoint to rerank documents with."""
    rerank_settings: str = "{}"
    """JSON object of its settings."""
    classify_model: str | None = None
    """Checkpoint to classify texts with."""
    classify_settings: str = "{}"
    """JSON object of its settings."""
    response_cache_mib: int = 0
    """Memory for answers of `complete` to requests that come again, in MiB; 0: none are kept."""
    triton_options: str = ""
    """More options of tritonserver, split as a shell does, such as --grpc-use-ssl=1."""
    exit_timeout_s: int = 10
    """How long requests may go on when the server is told to stop; then they are cancelled."""
    tritonserver: Path | None = None
    """Folder of an installed tritonserver; without it /opt/tritonserver, else a wheel's."""
    log_file: Path | None = None
    """Where the server's log is added to; without it, it is kept only if the server fails."""
    verbose: bool = False
    """Show the server's log."""

    @property
    def reachable_host(self) -> str:
        """A name under which this machine reaches the server."""
        return "localhost" if self.host == "0.0.0.0" else self.host

    @property
    def triton_exit_timeout_s(self) -> int:
        """How long Triton may take to end; the instances of a model end one after the other."""
        return self.exit_timeout_s + EXIT_MARGIN_S + self.front_ends * INSTANCE_EXIT_S

    def __post_init__(self) -> None:
        """Raise `InvalidArgument` for a value out of range."""
        for name in ("http_port", "grpc_port", "metrics_port"):
            if not 0 <= getattr(self, name) <= MAX_PORT:
                raise InvalidArgument(name, getattr(self, name), f"allowed: 0 to {MAX_PORT}")
        if self.front_ends < 1:
            raise InvalidArgument("front_ends", self.front_ends, "allowed: 1 and more")
        for name in ("exit_timeout_s", "response_cache_mib"):
            if getattr(self, name) < 0:
                raise InvalidArgument(name, getattr(self, name), "allowed: 0 and more")
