"""What a load asks of a server."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from tritonlm.config import require

ENSEMBLE = "text_generation"
DEFAULT_URLS = {"grpc": "localhost:8001", "triton-sse": "localhost:8000", "sse": "localhost:9000",
                "openai": "localhost:9000", "openai-chat": "localhost:9000"}
"""Where a server of each backend is, unless it is said."""


@dataclass(frozen=True)
class Load:
    """Streams of text; of several processes each has every n-th request of the same load."""

    backend: str = "grpc"
    """grpc, triton-sse, sse, openai, openai-chat: Triton over gRPC or HTTP, or a gateway."""
    url: str = ""
    """HOST:PORT; the default is the backend's own."""
    model: str = "generate"
    """The model, as the server names it."""
    num_prompts: int = 1000
    """Requests."""
    request_rate: float | None = None
    """Requests a second, at random times; without it, as soon as there is room."""
    burstiness: float = 1.0
    """Of the times: 1 is a Poisson process, less comes in bursts, more evenly."""
    max_concurrency: int | None = None
    """Requests at a time; without it, any number."""
    input_len: int = 512
    """Tokens of a random prompt."""
    output_len: int = 128
    """Tokens of an answer."""
    range_ratio: float = 0.0
    """Lengths differ by up to this share of themselves."""
    vocab_size: int = 256
    """Random prompts are ids below it; 0: texts, cut to as many tokens by the server."""
    prompts: str | None = None
    """File of prompts instead of random ones: lines {"prompt": TEXT, "max_tokens": N}."""
    ignore_eos: bool = False
    """Answers are as long as output_len says."""
    temperature: float = 0.0
    """Of all requests; 0 is greedy."""
    seed: int = 0
    """Of prompts and times."""
    num_warmups: int = 8
    """Requests that come first and are not measured."""
    api_key: str = ""
    """A key of the gateway's, where it asks for one."""
    has_stream_each: bool = False
    """A gRPC stream for each request; else they are used again."""
    place: int = 0
    num_processes: int = 1

    def __post_init__(self) -> None:
        """Raise `InvalidArgument` for a value out of range."""
        require("backend", self.backend, self.backend in DEFAULT_URLS, ", ".join(DEFAULT_URLS))
        host, _, port = self.address.rpartition(":")
        require("url", self.url, bool(host) and port.isdecimal(), "HOST:PORT")
        for name in ("request_rate", "max_concurrency"):
            value = getattr(self, name)
            require(name, value, value is None or 0 < value < inf,
                    "more than 0; without it, any number")
        for name in ("num_prompts", "input_len", "output_len", "burstiness", "num_processes"):
            require(name, getattr(self, name), getattr(self, name) > 0, "more than 0")
        for name in ("num_warmups", "temperature", "vocab_size"):
            require(name, getattr(self, name), getattr(self, name) >= 0, "0 and more")
        require("range_ratio", self.range_ratio, 0 <= self.range_ratio < 1, "0 to less than 1")

    @property
    def address(self) -> str:
        """Host and port."""
        return self.url or DEFAULT_URLS[self.backend]

    @property
    def asks_in_ids(self) -> bool:
        """Whether random prompts are token ids: chats and the ensemble take texts only."""
        return bool(self.vocab_size) and self.backend != "openai-chat" and self.model != ENSEMBLE

    def share(self, total: int) -> int:
        """This process's share of a number."""
        return total // self.num_processes + (self.place < total % self.num_processes)
