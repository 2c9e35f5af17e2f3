"""Which engine a prompt goes to: the one that knows its beginning, unless that is too busy."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping

import numpy as np

MAX_KNOWN_PREFIXES = 2**14
SPARE_REQUESTS = 4
SPARE_SHARE = 0.25
"""An engine is too busy with so many requests more than the least busy one, and this share more."""


class Router:
    """Remembers which engine has served which beginnings of prompts."""

    def __init__(self, block_size: int) -> None:
        self._block_bytes = block_size * np.dtype(np.int32).itemsize
        self._engines: OrderedDict[int, int] = OrderedDict()
        """The engine that was given a prefix last, by the prefix's hash; the latest at the end."""

    def choose(self, prompt: bytes, loads: Mapping[int, int]) -> int:
        """The engine for `prompt`, int32 ids, of those in `loads`: their unfinished requests."""
        if len(loads) == 1:
            return next(iter(loads))
        prefixes = list(self._prefixes(prompt))
        least = min(loads, key=loads.__getitem__)
        limit = loads[least] * (1 + SPARE_SHARE) + SPARE_REQUESTS
        known = (self._engines.get(prefix) for prefix in reversed(prefixes))
        chosen = next((engine for engine in known if engine is not None
                       and loads.get(engine, limit + 1) <= limit), least)
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
