"""What the loaded models may take together."""

from __future__ import annotations

from dataclasses import dataclass

from tritonlm.errors import InvalidArgument


@dataclass(frozen=True)
class Limits:
    """Unset, a limit is none."""

    max_models: int | None = None
    """Models loaded at once; unset, as many as there is memory for."""
    memory_budget_gib: float | None = None
    """Memory for all loaded models together; unset, 85 % of the device's."""
    idle_ttl_s: float | None = None
    """A model that was not used for so long is unloaded; unset, only where another needs room."""
    room_timeout_s: float = 60.0
    """How long a request waits for room while all loaded models are in use."""

    def __post_init__(self) -> None:
        """Raise `InvalidArgument` for a value out of range."""
        for name in ("max_models", "memory_budget_gib", "idle_ttl_s", "room_timeout_s"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InvalidArgument(name, value, "allowed: more than 0")

    @property
    def memory_bytes(self) -> float:
        """The budget in bytes."""
        return float("inf") if self.memory_budget_gib is None else self.memory_budget_gib * 2**30
