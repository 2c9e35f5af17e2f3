"""News from the engines that have yet to be sent, and whose turn it is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from itertools import chain, islice

from tritonlm.backend.generation import Generation
from tritonlm.engine.messages import Starts, Tokens


class Outbox:
    """Gathers tokens by request, so that those of a stream that is behind travel together.

    A stream's first response and its last go at once, those between `interval_s` apart at least.
    """

    def __init__(self, interval_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._first: dict[int, Generation] = {}
        """Those that nothing was sent of, by their first key."""
        self._later: dict[int, Generation] = {}

    @property
    def due_s(self) -> float:
        """When the next response is to be sent; infinity: there is nothing to send."""
        if self._first or (self._later and not self._interval_s):
            return 0.0
        return min(map(self._due_s, self._later.values()), default=math.inf)

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
                unsent = self._later if generation.sent_s else self._first
                unsent[generation.keys.start] = generation

    def take_due(self, most: int) -> list[Generation]:
        """At most so many whose turn it is: first responses, then those that wait longest."""
        now_s = self._clock()
        due = (generation for generation in chain(self._first.values(), self._later.values())
               if self._due_s(generation) <= now_s)
        taken = list(islice(due, most))
        for generation in taken:
            self.discard(generation)
        return taken

    def discard(self, generation: Generation) -> None:
        """Its news need not be sent."""
        for unsent in (self._first, self._later):
            unsent.pop(generation.keys.start, None)

    def _due_s(self, generation: Generation) -> float:
        if generation.is_over or not generation.sent_s:
            return 0.0
        return generation.sent_s + self._interval_s


def _begin(starts: Starts, at_s: float, generations: Mapping[int, Generation]) -> None:
    arrays = (values.tolist() for values in starts.arrays())
    for key, admitted_s, num_cached in zip(*arrays, strict=True):
        if key in generations:
            generations[key].answer.budget.begin(admitted_s, at_s, num_cached)
