"""Values with weights, of which a request draws one."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from tritonlm.errors import InvalidArgument
from tritonlm.values import float_value

FORM = "VALUE:WEIGHT, with commas between, weights above 0"


@dataclass(frozen=True)
class Mix:
    """What `8:3,64:1` says: 8 in three of four cases, else 64."""

    values: tuple[str, ...]
    weights: tuple[float, ...]

    @classmethod
    def parse(cls, name: str, text: str) -> Mix:
        """The mix that the option `name` says, weights 1 unless given; raises `InvalidArgument`."""
        pairs = [part.strip().partition(":") for part in text.split(",")]
        weights = tuple(float_value(name, weight or "1", FORM) for _, _, weight in pairs)
        values = tuple(value for value, _, _ in pairs)
        if not all(values) or min(weights) <= 0:
            raise InvalidArgument(name, text, f"allowed: {FORM}")
        return cls(values, weights)

    def draw(self, random: Random) -> str:
        """One of the values."""
        return random.choices(self.values, self.weights)[0]
