"""The requests that a front end has, whether an engine works for them or is still to come."""

from __future__ import annotations

from collections.abc import Iterator

from tritonlm.backend.generation import Generation


class Unfinished:
    """Each counts once, however many sequences it has."""

    def __init__(self) -> None:
        self.by_key: dict[int, Generation] = {}
        """By the key of each of their sequences."""
        self._num = 0

    def __len__(self) -> int:
        return self._num

    def __iter__(self) -> Iterator[Generation]:
        """Those there are now: they may end meanwhile."""
        return iter([generation for key, generation in self.by_key.items()
                     if key == generation.keys.start])

    def add(self, generation: Generation) -> None:
        """One that has its keys."""
        self.by_key |= dict.fromkeys(generation.keys, generation)
        self._num += 1

    def remove(self, generation: Generation) -> None:
        """It is over."""
        for key in generation.keys:
            del self.by_key[key]
        self._num -= 1
