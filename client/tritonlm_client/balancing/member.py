"""One of the servers to choose from, and the choice."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from tritonlm_client.balancing.health import Health
from tritonlm_client.balancing.load import Load
from tritonlm_client.balancing.policy import Candidate, choose

SMOOTHING = 0.2
"""Weight of the newest of the times that are measured here."""


class Member:
    """What is known of a server: its load, its health, and how quick it is."""

    def __init__(self, name: str, clock_s: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self.health = Health(clock_s)
        self._load: Load | None = None
        self._num_at_look = 0
        """Of the unfinished requests; later ones are not in the load."""
        self._first_token_s: float | None = None

    @property
    def load(self) -> Load | None:
        """As its metrics told last; None if they do not."""
        return self._load

    @load.setter
    def load(self, load: Load | None) -> None:
        if load is not self._load:
            self._load, self._num_at_look = load, self.num_unfinished

    @property
    def num_unfinished(self) -> int:
        """Requests that it was given from here, and that are not over."""
        raise NotImplementedError

    def candidate(self, usual: Load) -> Candidate:
        """What is known of it; without metrics, what was measured here and is `usual`."""
        if self._load is None:
            load = replace(usual, first_token_s=self._first_token_s)
        else:  # until the next look all requests would go where the fewest were at the last
            num_since = max(self.num_unfinished - self._num_at_look, 0)
            load = replace(self._load, num_waiting=self._load.num_waiting + num_since)
        return Candidate(self.name, load, self.num_unfinished)

    def begun(self, after_s: float) -> None:
        """A request has had its first piece."""
        self.health.succeed()
        last_s = self._first_token_s
        self._first_token_s = after_s if last_s is None else (
            last_s + SMOOTHING * (after_s - last_s))

    def failed(self) -> None:
        """A request has failed through its fault."""
        self.health.fail()


M = TypeVar("M", bound=Member)


def choose_member(
    members: Sequence[M], policy: str, prefix: bytes, chance: random.Random
) -> M:
    """The one of `members` that takes a request.

    One that does not tell its load is thought to have the mean of the others'.
    """
    usual = Load.mean([member.load for member in members if member.load is not None])
    candidates = [member.candidate(usual) for member in members]
    return members[choose(policy, candidates, prefix, chance)]
