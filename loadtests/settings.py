"""Our own settings of a load test, beside Locust's."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from loadtests.mix import Mix
from loadtests.shapes import SHAPES
from loadtests.slo import Slo
from tritonlm.config import require
from tritonlm.options import PRIORITIES
from tritonlm.server.flags import field_texts

ARRIVALS = ("closed", "poisson")


@dataclass(frozen=True)
class Settings:
    """Where requests go, what they ask for, and how their clients behave."""

    grpc_url: str = "localhost:8001"
    """Triton's gRPC, HOST:PORT."""
    http_url: str = "localhost:8000"
    """Triton's HTTP, HOST:PORT; the gateway is Locust's --host."""
    api_key: str = ""
    """Of the gateway."""
    model: str = "generate"
    """Model that generates."""
    embedding_model: str = "embed"
    """Model that embeds."""
    arrivals: str = "closed"
    """closed: users wait for an answer before they ask again; poisson: they ask at random times."""
    rate: float = 1.0
    """With poisson: requests a second of each user."""
    shape: str = "constant"
    """constant, step, spike or soak: how many of the users there are at a time."""
    prompt_words: str = "8:5,64:3,256:2"
    """Lengths of prompts, VALUE:WEIGHT,..."""
    max_tokens: str = "32"
    """Lengths of answers, VALUE:WEIGHT,..."""
    priorities: str = "normal:8,high:1,low:1"
    """Priorities, VALUE:WEIGHT,..."""
    abort_share: float = 0.0
    """Of requests whose client hangs up amid the answer."""
    slow_share: float = 0.0
    """Of requests whose client waits before it reads on."""
    slow_pause_ms: float = 50.0
    """How long it waits after each chunk."""
    slo: str = ""
    """YAML file of what has to be kept."""

    def __post_init__(self) -> None:
        """Raise `InvalidArgument` for a value out of range."""
        require("arrivals", self.arrivals, self.arrivals in ARRIVALS, ", ".join(ARRIVALS))
        require("shape", self.shape, self.shape in SHAPES, ", ".join(SHAPES))
        require("rate", self.rate, self.rate > 0, "more than 0")
        require("slow_pause_ms", self.slow_pause_ms, self.slow_pause_ms >= 0, "0 and more")
        for name in ("abort_share", "slow_share"):
            require(name, getattr(self, name), 0 <= getattr(self, name) <= 1, "0 to 1")
        require("abort_share", self.abort_share, self.abort_share + self.slow_share <= 1,
                "at most 1 together with slow_share")
        for name in ("prompt_words", "max_tokens"):
            for value in self.mixes[name].values:
                require(name, value, value.isdecimal() and int(value) > 0, "numbers from 1")
        for value in self.mixes["priorities"].values:
            require("priorities", value, value in PRIORITIES, ", ".join(PRIORITIES))
        self.objectives  # noqa: B018 - raises for a file that is none

    @classmethod
    def of(cls, options: Any) -> Settings:
        """The settings among parsed options; raises `InvalidArgument`."""
        return cls(**{field.name: getattr(options, field.name) for field in fields(cls)})

    @cached_property
    def mixes(self) -> dict[str, Mix]:
        """What requests draw from, by the setting that says it; raises `InvalidArgument`."""
        return {name: Mix.parse(name, getattr(self, name))
                for name in ("prompt_words", "max_tokens", "priorities")}

    @cached_property
    def objectives(self) -> Slo | None:
        """What has to be kept; raises `InvalidArgument`."""
        return Slo.read(self.slo) if self.slo else None


def add_options(parser: Any) -> None:
    """Add an option for each setting to `parser`, an `argparse.ArgumentParser`."""
    group = parser.add_argument_group("tritonlm")
    texts = field_texts(Settings)
    for field in fields(Settings):
        group.add_argument(f"--{field.name.replace('_', '-')}", default=field.default,
                           type=type(field.default), help=texts[field.name])
