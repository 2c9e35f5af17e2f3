"""Which engine a prompt goes to: the one that knows its beginning, unless that is too busy.

Front ends choose without asking each other. What engines say of their load is old by then, and
the same for all front ends: if they went by that, all would send to one engine, then all to the
next. So each shares out its own requests evenly.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

MAX_KNOWN_PREFIXES = 2**14
SPARE_REQUESTS = 2
SPARE_SHARE = 0.25
"""An engine is too busy with so many requests more than the least busy one, and this share more."""


class Load(NamedTuple):
    """Unfinished requests of an engine, in the order in which they count."""

    num_own: int
    """Of this front end."""
    num_all: int
    """Of all of them, as the engine said last."""


class Router:
    """Remembers which engine has served which beginnings of prompts."""

    def __init__(self, block_size: int) -> None:
        self._block_bytes = block_size * np.dtype(np.int32).itemsize
        self._engines: OrderedDict[int, int] = OrderedDict()
        """The engine that was given a prefix last, by the prefix's hash; the latest at the end."""

    def choose(self, prompt: bytes, loads: Mapping[int, Load]) -> int:
        """The engine for `prompt`, int32 ids, of those in `loads`; by chance among equals."""
        if len(loads) == 1:
            return next(iter(loads))
        prefixes = list(self._prefixes(prompt))
        least = min(loads, key=lambda engine: (loads[engine], random.random()))
        limit = loads[least].num_own * (1 + SPARE_SHARE) + SPARE_REQUESTS
        known = (self._engines[prefix] for prefix in reversed(prefixes)
                 if prefix in self._engines)
        chosen = next((engine for engine in known
                       if engine in loads and loads[engine].num_own <= limit), least)
        self._remember(prefixes, chosen)
        return chosen

    def _prefixes(self, prompt: bytes) -> Iterator[int]:
        """Hashes of the first 1, 2, 4, ... whole blocks."""
        num_bytes = self._block_bytes
        while num_bytes <= len(prompt):
            yield hash(prompt[:num_bytes])
            num_bytes *= 2

    def _remember(self, prefixes: list[int], engine: int) -> None:
        for prefix in prefixes:
            self._engines[prefix] = engine
            self._engines.move_to_end(prefix)
        while len(self._engines) > MAX_KNOWN_PREFIXES:
            self._engines.popitem(last=False)
