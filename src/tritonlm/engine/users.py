"""How much each user has been served, so that the next turn is that of who got least."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray


class Users:
    """The users that have requests, each with a number and the tokens computed for it.

    A user who comes, or comes back, is level with the least served one: idle time earns nothing.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._names: list[str] = []
        self._free_numbers: list[int] = []
        self._num_requests = np.zeros(8, np.int64)
        self._num_tokens = np.zeros(8)

    def join(self, name: str) -> int:
        """The number of user `name`, who has one request more."""
        number = self._numbers.get(name)
        if number is None:
            number = self._numbers[name] = self._new_number(name)
            is_here = self._num_requests > 0
            self._num_tokens[number] = self._num_tokens[is_here].min() if is_here.any() else 0
        self._num_requests[number] += 1
        return number

    def leave(self, number: int) -> None:
        """User `number` has one request less."""
        self._num_requests[number] -= 1
        if self._num_requests[number] == 0:
            del self._numbers[self._names[number]]
            self._free_numbers.append(number)

    def charge(self, number: int, num_tokens: int) -> None:
        """User `number` is served the `num_tokens` of a prompt.

        They count before they are computed: else many prompts of one user would be let in at once.
        """
        self._num_tokens[number] += num_tokens

    def charge_each(self, numbers: NDArray[np.int32]) -> None:
        """Each of `numbers`, [n] and not necessarily distinct, is served a token."""
        self._num_tokens += np.bincount(numbers, minlength=self._num_tokens.size)

    def least_served(self, numbers: Collection[int]) -> int:
        """Who of `numbers`, one at least, was served fewest tokens; the first of equals."""
        candidates = np.fromiter(numbers, np.intp, len(numbers))
        return int(candidates[self._num_tokens[candidates].argmin()])

    def _new_number(self, name: str) -> int:
        if self._free_numbers:
            number = self._free_numbers.pop()
            self._names[number] = name
            return number
        self._names.append(name)
        if len(self._names) > self._num_tokens.size:
            self._num_requests = np.append(self._num_requests, np.zeros_like(self._num_requests))
            self._num_tokens = np.append(self._num_tokens, np.zeros_like(self._num_tokens))
        return len(self._names) - 1
