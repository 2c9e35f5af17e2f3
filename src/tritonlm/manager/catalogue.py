"""What there is to load, as the manager is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Entry:
    """A model of the repository: several of Triton's models that are loaded and unloaded as one."""

    task: str
    versions: Mapping[int, int]
    """What each version needs when it is loaded, in bytes, by estimate."""
    parts: tuple[str, ...]
    """Triton's models that run by themselves, first the one that does the task."""
    ensembles: tuple[str, ...] = ()
    """Those that are made of the parts."""
    identity: str = ""
    """Changes with what its answers depend on."""

    @property
    def memory_bytes(self) -> int:
        """What all its versions need."""
        return sum(self.versions.values())


Catalogue: TypeAlias = Callable[[], Mapping[str, Entry]]
"""Reads the repository; called again and again, as models come and go."""
