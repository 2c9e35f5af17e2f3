"""A request from its arrival to its end."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tritonlm.engine.grammar import Grammar
from tritonlm.engine.messages import Submit

NO_ROW = -1
URGENT, AGED = 0, 1
"""The first lanes of the waiting: urgent requests, and those that have aged beyond all classes."""


@dataclass(eq=False, slots=True)
class Request:
    """What the scheduler knows of a request, whether it waits or has a row of the table."""

    owner: int
    submit: Submit
    arrival: int
    """Its number in the order of arrival."""
    user: int
    token_ids: NDArray[np.int32]
    """The prompt; after a pre-emption, what was generated too."""
    lane: int
    until_promotion_s: float
    """How long it has yet to wait, in all, before it moves up a lane."""
    digests: list[bytes] = field(default_factory=list)
    """Of the full blocks of its tokens, as far as they are known."""
    row: int = NO_ROW
    due_s: float = math.inf
    """When it moves up a lane if it still waits."""
    num_lost_turns: int = 0
    """How often it has been pre-empted since it is aged."""
    grammar: Grammar | None = None
    """What holds the answer of a request with a guide, once it is compiled."""

    @property
    def priority(self) -> int:
        """Its class by now; 0 is the most urgent."""
        return 0 if self.lane == URGENT else max(self.lane - AGED, 1)

    @property
    def num_tokens(self) -> int:
        """Tokens that it enters the table with."""
        return self.token_ids.size


def lane_of(priority: int) -> int:
    """Where a request of class `priority` begins to wait."""
    return URGENT if priority == 0 else priority + AGED
