"""When a request that could not be begun is tried again."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tenacity import RetryCallState, retry_if_exception
from tenacity.stop import stop_base
from tenacity.wait import wait_random_exponential

from tritonlm.config import require
from tritonlm.errors import Unavailable
from tritonlm_client.deadline import Deadline
from tritonlm_client.errors import DeadlineExceeded


@dataclass(frozen=True)
class Retry:
    """A request that is `Unavailable` before its first token is tried again, after a wait.

    In each try it goes from server to server until one takes it. The wait before the next is what
    the server asks for, or else random, up to a bound that doubles.
    """

    num_tries: int = 3
    """In all; 1 gives up at once."""
    first_wait_s: float = 0.2
    """Bound of the first wait."""
    max_wait_s: float = 10.0
    """Bound of all others; a server that asks for more is not tried again."""
    after_first_token: bool = False
    """Also begin a stream again that was cut short: its next chunk has the index 0 then."""

    def __post_init__(self) -> None:
        """Raise `InvalidArgument` for a value out of range."""
        require("num_tries", self.num_tries, self.num_tries >= 1, "1 and more")
        require("first_wait_s", self.first_wait_s, self.first_wait_s >= 0, "0 and more")
        require("max_wait_s", self.max_wait_s, self.max_wait_s >= self.first_wait_s,
                "first_wait_s and more")

    @property
    def num_more_begins(self) -> int:
        """How often a stream that was cut short may begin again."""
        return self.num_tries - 1 if self.after_first_token else 0

    def rules(self, deadline: Deadline, is_wanted: Callable[[], bool]) -> dict[str, Any]:
        """What tenacity's `Retrying` takes; nothing is tried again that is not wanted any more."""
        return {
            "stop": _Stop(self.num_tries, deadline),
            "wait": self._wait_s,
            "retry": retry_if_exception(lambda error: is_wanted() and self._is_safe(error)),
            "reraise": True}

    def _is_safe(self, error: BaseException) -> bool:
        return (isinstance(error, Unavailable) and not isinstance(error, DeadlineExceeded)
                and (error.retry_after_s or 0) <= self.max_wait_s)

    def _wait_s(self, state: RetryCallState) -> float:
        assert state.outcome is not None
        hint_s = getattr(state.outcome.exception(), "retry_after_s", None)
        if hint_s is not None:  # not all at the same moment
            return float(hint_s + random.uniform(0, self.first_wait_s))
        return wait_random_exponential(self.first_wait_s, self.max_wait_s)(state)


class _Stop(stop_base):
    """After the last try, or if there is no time for another."""

    def __init__(self, num_tries: int, deadline: Deadline) -> None:
        self._num_tries = num_tries
        self._deadline = deadline

    def __call__(self, retry_state: RetryCallState) -> bool:
        return (retry_state.attempt_number >= self._num_tries
                or not self._deadline.is_within(retry_state.upcoming_sleep))
