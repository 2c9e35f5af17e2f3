"""What a load asks of a server."""

from __future__ import annotations

from dataclasses import dataclass

from tritonlm.config import require

ENSEMBLE = "text_generation"
DEFAULT_URLS = {"grpc": "localhost:8001", "triton-sse": "localhost:8000", "sse": "localhost:9000",
                "openai": "localhost:9000", "openai-chat": "localhost:9000"}
"""Where a server of each backend is, unless it is said."""


@dataclass(frozen=True)
class Load:
    """Streams of text; of several processes each has every n-th request of the same load."""

    address: str
    """Host and port."""
    backend: str = "grpc"
    model: str = "generate"
    num_requests: int = 1000
    request_rate: float | None = None
    """A second; None: as soon as `max_concurrency` lets them."""
    burstiness: float = 1.0
    max_concurrency: int | None = None
    """Requests at a time; None: any number."""
    num_input_tokens: int = 512
    num_output_tokens: int = 128
    range_ratio: float = 0.0
    """Lengths are drawn from those that differ by this share at most."""
    vocab_size: int = 256
    """Prompts are random ids below it; 0: random texts, cut to as many tokens by the server."""
    prompts_file: str | None = None
    """Lines of JSON, instead of random prompts."""
    ignore_eos: bool = False
    temperature: float = 0.0
    seed: int = 0
    num_warm_ups: int = 0
    """Requests that come first and are not measured."""
    api_key: str = ""
    has_stream_each: bool = False
    """A gRPC stream for each request; else they are used again."""
    place: int = 0
    num_processes: int = 1

    def __post_init__(self) -> None:
        """Raise `InvalidArgument` for a value out of range."""
        require("backend", self.backend, self.backend in DEFAULT_URLS, ", ".join(DEFAULT_URLS))
        host, _, port = self.address.rpartition(":")
        require("url", self.address, bool(host) and port.isdecimal(), "HOST:PORT")
        for name in ("request_rate", "max_concurrency"):
            value = getattr(self, name)
            require(name, value, value is None or value > 0, "more than 0")
        for name in ("num_requests", "num_input_tokens", "num_output_tokens", "burstiness",
                     "num_processes"):
            require(name, getattr(self, name), getattr(self, name) > 0, "more than 0")
        for name in ("num_warm_ups", "temperature", "vocab_size"):
            require(name, getattr(self, name), getattr(self, name) >= 0, "0 and more")
        require("range_ratio", self.range_ratio, 0 <= self.range_ratio < 1, "0 to less than 1")

    @property
    def asks_in_ids(self) -> bool:
        """Whether random prompts are token ids: chats and the ensemble take texts only."""
        return bool(self.vocab_size) and self.backend != "openai-chat" and self.model != ENSEMBLE

    def share(self, total: int) -> int:
        """This process's share of a number."""
        return total // self.num_processes + (self.place < total % self.num_processes)
