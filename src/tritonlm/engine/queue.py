"""The requests that wait for a row: lanes by class and age, taken turns in by the users.

    urgent              in order of arrival, like every lane of one user
    aged                waited through all lanes below; of the same class as high ones
    high, normal, low   one lane up after each `ageing_s` of waiting

The upper lane goes first, but no stream of urgent requests holds up the aged ones for good: after
`URGENT_TURNS` of them an aged one has its turn, and is urgent from then on. So is one that has been
pre-empted as often, which gets its turns when no urgent request happens to wait.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from tritonlm.engine.messages import NUM_PRIORITIES
from tritonlm.engine.request import AGED, URGENT, Request
from tritonlm.engine.users import Users

NUM_LANES = NUM_PRIORITIES + 1
URGENT_TURNS = 4
AGEING_CHECKS = 8
"""Looks at the waiting in `ageing_s`: what a promotion may be late by."""


class WaitingQueue:
    """Who waits, and who is next."""

    def __init__(self, users: Users, ageing_s: float) -> None:
        self._users = users
        self._ageing_s = ageing_s
        self._next_ageing_s = 0.0
        self._num_urgent_turns = 0
        self._since_s: OrderedDict[Request, float] = OrderedDict()
        self._lanes: list[dict[int, OrderedDict[Request, None]]] = [{} for _ in range(NUM_LANES)]
        self.num_by_priority = [0] * NUM_PRIORITIES
        """Waiting requests by the class that they came with."""
        self.num_prompt_tokens = 0
        """Of all that wait."""
        self.num_left = 0
        """Requests that wait no more, since the start."""

    def __len__(self) -> int:
        return len(self._since_s)

    @property
    def has_next(self) -> bool:
        """Whether a request can be taken: not all that wait are parked."""
        return any(self._lanes)

    @property
    def has_urgent(self) -> bool:
        """Whether an urgent request can be taken."""
        return bool(self._lanes[URGENT])

    def oldest_wait_s(self, now_s: float) -> float:
        """How long the request waits that waits longest; 0 when none does."""
        return now_s - next(iter(self._since_s.values())) if self._since_s else 0.0

    def enter(self, request: Request, now_s: float, is_preempted: bool = False) -> None:
        """`request` waits from now on; if pre-empted, before all others of its user and lane."""
        self._since_s[request] = now_s
        self.num_by_priority[request.submit.priority] += 1
        self.num_prompt_tokens += request.submit.num_prompt_tokens
        request.due_s = now_s + request.until_promotion_s
        request.num_lost_turns += is_preempted and request.lane == AGED
        self._line_up(request, is_preempted)

    def leave(self, request: Request, now_s: float) -> None:
        """`request` waits no more."""
        del self._since_s[request]
        self.num_by_priority[request.submit.priority] -= 1
        self.num_prompt_tokens -= request.submit.num_prompt_tokens
        self.num_left += 1
        request.until_promotion_s = request.due_s - now_s
        self.park(request)

    def first(self) -> Request | None:
        """Who is next: of the uppermost lane, the first request of the least served user."""
        is_turn_of_aged = self._num_urgent_turns >= URGENT_TURNS and self._lanes[AGED]
        for lane in self._lanes[AGED if is_turn_of_aged else URGENT :]:
            if lane:
                return next(iter(lane[self._users.least_served(lane)]))
        return None

    def take(self, request: Request, num_tokens: int, now_s: float) -> None:
        """The first request leaves because it gets a row; `num_tokens` are computed for it."""
        self._num_urgent_turns = self._num_urgent_turns + 1 if request.lane == URGENT else 0
        self._users.charge(request.user, num_tokens)
        self.leave(request, now_s)
        if request.lane == AGED and (self.has_urgent or request.num_lost_turns >= URGENT_TURNS):
            request.lane = URGENT  # those before whom it goes are not to throw it out

    def park(self, request: Request) -> None:
        """`request` is nobody's next until it is unparked; it may be parked already."""
        mine = self._lanes[request.lane].get(request.user)
        if mine is None or request not in mine:
            return
        del mine[request]
        if not mine:
            del self._lanes[request.lane][request.user]

    def unpark(self, requests: Sequence[Request], is_first: bool = True) -> None:
        """`requests` go back to the front of their lanes, or to the end, those that wait still."""
        for request in reversed(requests):
            if request in self._since_s:
                self._line_up(request, is_first)

    def age(self, now_s: float) -> None:
        """Move up who has waited long enough."""
        if now_s < self._next_ageing_s:
            return
        self._next_ageing_s = now_s + self._ageing_s / AGEING_CHECKS
        for lane in reversed(self._lanes[AGED + 1 :]):
            for request in [request for mine in lane.values() for request in mine
                            if request.due_s <= now_s]:
                self.park(request)
                request.lane -= 1
                request.due_s += self._ageing_s
                self._line_up(request)

    def _line_up(self, request: Request, is_first: bool = False) -> None:
        mine = self._lanes[request.lane].setdefault(request.user, OrderedDict())
        mine[request] = None
        if is_first:
            mine.move_to_end(request, last=False)
