"""News from the engines that have yet to be sent, and whose turn it is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

from tritonlm.backend.generation import Generation
from tritonlm.engine.messages import Starts, Tokens


class Outbox:
    """Gathers tokens by request, so that those of a stream that is behind travel together.

    A stream's first response and its last go at once, those between `interval_s` apart at least.
    """

    def __init__(self, interval_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._fresh: dict[int, Generation] = {}
        """By their first key."""

    @property
    def due_s(self) -> float:
        """When the next response is to be sent; infinity: there is nothing to send."""
        return min((self._due_s(generation) for generation in self._fresh.values()),
                   default=math.inf)

    def take(self, message: Tokens, generations: Mapping[int, Generation]) -> None:
        """Hand a step's news to those of `generations`, by key, that they are about."""
        for logprobs in message.logprobs:
            for key, *measured in zip(*logprobs.arrays(), strict=True):
                if key in generations:
                    generations[key].sequence(key).logprobs.take(*measured)
        if message.starts:
            _begin(message.starts, message.at_s, generations)
        arrays = (values.tolist() for values in message.arrays())
        for key, token_id, reason in zip(*arrays, strict=True):
            generation = generations.get(key)
            if generation is not None:
                generation.take(key, token_id, reason)
                generation.answer.budget.last_token_s = message.at_s
                self._fresh[generation.keys.start] = generation

    def take_due(self) -> list[Generation]:
        """Those whose turn it is, first responses first."""
        now_s = self._clock()
        due = [generation for generation in self._fresh.values()
               if self._due_s(generation) <= now_s]
        for generation in due:
            del self._fresh[generation.keys.start]
        return sorted(due, key=lambda generation: generation.sent_s > 0)

    def discard(self, generation: Generation) -> None:
        """It is over."""
        self._fresh.pop(generation.keys.start, None)

    def _due_s(self, generation: Generation) -> float:
        return 0.0 if generation.is_over else generation.sent_s + self._interval_s


def _begin(starts: Starts, at_s: float, generations: Mapping[int, Generation]) -> None:
    arrays = (values.tolist() for values in starts.arrays())
    for key, admitted_s, num_cached in zip(*arrays, strict=True):
        if key in generations:
            generations[key].answer.budget.begin(admitted_s, at_s, num_cached)
