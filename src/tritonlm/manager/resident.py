"""One model as the manager has it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum


class State(str, Enum):
    """Where a model is between disk and device."""

    UNLOADED = "unloaded"
    LOADING = "loading"
    READY = "ready"
    UNLOADING = "unloading"


@dataclass
class Resident:
    """A model that is loaded, or may be."""

    name: str
    declared_bytes: int
    """What its next load needs, by estimate."""
    memory_bytes: int = field(init=False)
    """What it needs as it is loaded; before that, what it would."""
    state: State = State.UNLOADED
    is_pinned: bool = False
    waiting: dict[int, float] = field(default_factory=dict)
    """Leases that wait for it, each with the time since which it does."""
    leases: set[int] = field(default_factory=set)
    """Who uses it: it stays loaded."""
    last_used_s: float = -math.inf
    changed_s: float = -math.inf
    """When it came into its state."""
    failure: str = ""
    """Why its last load failed."""
    load_s: float | None = None
    """How long its last load took."""
    num_loads: int = 0
    num_requests: int = 0

    def __post_init__(self) -> None:
        """Nothing of it is loaded yet."""
        self.memory_bytes = self.declared_bytes

    @property
    def takes_memory(self) -> bool:
        """Whether some of it is on the device."""
        return self.state != State.UNLOADED

    @property
    def is_idle(self) -> bool:
        """Whether it could be unloaded."""
        return self.state == State.READY and not (self.leases or self.waiting)

    def enter(self, state: State, now_s: float) -> None:
        """Come into `state`."""
        self.state, self.changed_s = state, now_s
        if not self.takes_memory:
            self.memory_bytes = self.declared_bytes
