"""The policies: each takes what is known of the servers, and gives the place of one of them.

`urgent`  the lowest time to be expected until the first token
`batch`   the least to do
`normal`  by chance, servers with less of waiting, running, KV cache and latency more often
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tritonlm_client.balancing.load import Load

UNKNOWN_FIRST_TOKEN_S = 0.05
FULL_KV_USAGE = 0.9
"""From here on a server soon has to make requests give way."""
WEIGHTS = {"waiting": 0.4, "running": 0.2, "kv": 0.2, "latency": 0.2}
MIN_SCORE = 0.05
"""So that an idle server does not get everything."""
SHARPNESS = 2.0
"""How much more often a server of half the score is taken: this power of 2."""
MIN_PREFIX_BYTES = 64
MAX_PREFIX_BYTES = 512
"""Prompts that begin with the same so many bytes go to the same server."""
AFFINITY_SLACK = 1.5
"""How much more than the least busy server the one that knows a prompt's beginning may have."""
AFFINITY_FREE_REQUESTS = 4
"""It may have so many requests in any case."""


@dataclass(frozen=True)
class Candidate:
    """A server that could take a request."""

    name: str
    load: Load
    num_own: int = 0
    """Unfinished requests that the chooser itself has given it: known at once, unlike the load."""

    @property
    def num_requests(self) -> float:
        """Requests that it has, at least."""
        return max(self.load.num_waiting + self.load.num_running, self.num_own)

    @property
    def expected_s(self) -> float:
        """Time to be expected until the first token."""
        measured_s = self.load.first_token_s or UNKNOWN_FIRST_TOKEN_S
        queue = self.load.num_waiting / max(self.load.num_running, 1)
        return measured_s * (1 + queue) * _pressure(self)


def urgent(candidates: Sequence[Candidate], chance: random.Random) -> int:
    """The lowest latency; among equals, the least to do."""
    return _least(candidates, lambda it: (it.expected_s, it.num_requests), chance)


def batch(candidates: Sequence[Candidate], chance: random.Random) -> int:
    """The least to do."""
    return _least(candidates, lambda it: it.num_requests * _pressure(it), chance)


def normal(candidates: Sequence[Candidate], chance: random.Random) -> int:
    """By chance, with weights."""
    weights = [max(score, MIN_SCORE) ** -SHARPNESS for score in _scores(candidates)]
    return chance.choices(range(len(candidates)), weights)[0]


POLICIES: dict[str, Callable[[Sequence[Candidate], random.Random], int]] = {
    "urgent": urgent, "batch": batch, "normal": normal}
BY_PRIORITY = {"urgent": "urgent", "high": "urgent", "normal": "normal", "low": "batch"}
"""The policy for a request's priority."""


def choose(
    policy: str, candidates: Sequence[Candidate], prefix: bytes, chance: random.Random
) -> int:
    """The place of the server that takes a request.

    A prompt that begins with `prefix`, if that is not empty, goes where such prompts went before,
    unless that server has much more to do than the others.
    """
    if prefix:
        place = max(range(len(candidates)), key=lambda i: _rank(candidates[i].name, prefix))
        fewest = min(candidate.num_requests for candidate in candidates)
        limit = max(AFFINITY_SLACK * fewest, AFFINITY_FREE_REQUESTS)
        candidate = candidates[place]
        if candidate.num_requests <= limit and candidate.load.kv_usage < FULL_KV_USAGE:
            return place
    return POLICIES[policy](_guessed(candidates), chance)


def prefix_of(prompt: bytes) -> bytes:
    """The beginning of a prompt, if it is long enough to be worth computing once."""
    return prompt[:MAX_PREFIX_BYTES] if len(prompt) >= MIN_PREFIX_BYTES else b""


def _guessed(candidates: Sequence[Candidate]) -> list[Candidate]:
    """A server whose latency is not known is as quick as the quickest, until it is tried."""
    known = [it.load.first_token_s for it in candidates if it.load.first_token_s is not None]
    guess = min(known, default=UNKNOWN_FIRST_TOKEN_S)
    return [it if it.load.first_token_s is not None
            else replace(it, load=replace(it.load, first_token_s=guess)) for it in candidates]


def _rank(name: str, prefix: bytes) -> bytes:
    """Rendezvous hashing: when a server goes, only its own prompts move."""
    return hashlib.blake2b(name.encode() + b"\0" + prefix, digest_size=8).digest()


def _pressure(candidate: Candidate) -> float:
    """1, and more for a server that fails, or has no room left."""
    overfull = max(0.0, candidate.load.kv_usage - FULL_KV_USAGE) / (1 - FULL_KV_USAGE)
    return (1 + overfull) * (1 + 4 * candidate.load.failed_share)


def _least(
    candidates: Sequence[Candidate], key: Callable[[Candidate], object], chance: random.Random
) -> int:
    keys = [key(candidate) for candidate in candidates]
    least = min(keys)  # type: ignore[type-var]
    return chance.choice([place for place, each in enumerate(keys) if each == least])


def _scores(candidates: Sequence[Candidate]) -> list[float]:
    """0 (idle) to 1 (the busiest in everything), more for a server under pressure."""
    measures = {
        "waiting": [it.load.num_waiting for it in candidates],
        "running": [max(it.load.num_running, it.num_own - it.load.num_waiting)
                    for it in candidates],
        "kv": [it.load.kv_usage for it in candidates],
        "latency": [it.expected_s for it in candidates],
    }
    shares = {name: [value / (max(values) or 1) for value in values]
              for name, values in measures.items()}
    return [_pressure(it) * sum(WEIGHTS[name] * shares[name][place] for name in WEIGHTS)
            for place, it in enumerate(candidates)]
