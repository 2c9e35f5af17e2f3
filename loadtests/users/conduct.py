"""How the client of a request behaves: it may hang up, or read slowly."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from random import Random

import gevent

from loadtests.settings import Settings
from tritonlm.bench.seen import Watch

MOST_CHUNKS_BEFORE_ABORT = 5
WORDS = ("the", "of", "king", "and", "night", "to", "love", "what", "shall", "my", "lord",
         "speak", "never", "heart", "come", "away", "blood", "sweet", "queen", "good")


class HungUp(Exception):
    """The client does not want the rest."""


@dataclass
class Conduct(Watch):
    """What a client asks for, how it behaves, and what it has seen."""

    prompt: str = ""
    max_tokens: int = 1
    priority: str = "normal"
    pause_s: float = 0.0
    """After each chunk."""
    hang_up_after: int = 0
    """Chunks; 0: it stays to the end."""

    def chunk(self, num_output_tokens: int = 0, at_s: float | None = None) -> None:
        """A piece has come, of an answer of so many tokens by now; raises `HungUp`."""
        self.chunks_s.append(at_s or time.monotonic())
        self.num_output_tokens = num_output_tokens or self.num_output_tokens
        if len(self.chunks_s) == self.hang_up_after:
            raise HungUp

    def pause(self) -> None:
        """Wait before reading on."""
        if self.pause_s:
            gevent.sleep(self.pause_s)


@dataclass(frozen=True)
class Behaviour:
    """Draws conducts as the settings say."""

    settings: Settings
    random: Random = field(default_factory=Random)

    def interval_s(self) -> float:
        """From a request to the next: that of a Poisson process, or none in a closed loop."""
        if self.settings.arrivals == "closed":
            return 0.0
        return self.random.expovariate(self.settings.rate)

    def prompt(self) -> str:
        """Words at random, so that no prefix cache knows them."""
        num_words = int(self._draw("prompt_words"))
        return " ".join(self.random.choices(WORDS, k=num_words))

    def conduct(self, is_stream: bool) -> Conduct:
        """That of the next request, which is sent now."""
        settings, chance = self.settings, self.random.random()
        aborts = is_stream and chance < settings.abort_share
        is_slow = is_stream and not aborts and chance < settings.abort_share + settings.slow_share
        return Conduct(
            time.monotonic(), prompt=self.prompt(),
            max_tokens=int(self._draw("max_tokens")), priority=self._draw("priorities"),
            pause_s=settings.slow_pause_ms / 1000 if is_slow else 0.0,
            hang_up_after=self.random.randint(1, MOST_CHUNKS_BEFORE_ABORT) if aborts else 0)

    def _draw(self, name: str) -> str:
        return self.settings.mixes[name].draw(self.random)
