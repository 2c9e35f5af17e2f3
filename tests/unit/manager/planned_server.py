"""A server that does what a residency plans, with a clock of its own."""

from __future__ import annotations

from tritonlm.manager.limits import Limits
from tritonlm.manager.residency import Residency

GIB = 2**30
SIZES = {"small": 1, "middle": 2, "large": 3, "huge": 9}
ROOM_TIMEOUT_S = 60.0


class Clock:
    now_s = 1000.0

    def __call__(self):
        return self.now_s


class Server:
    """Does what a residency plans, when it is told to."""

    def __init__(self, max_models=None, budget_gib=4, idle_ttl_s=None, sizes=SIZES):
        self.clock = Clock()
        limits = Limits(max_models, budget_gib, idle_ttl_s, ROOM_TIMEOUT_S)
        self.residency = Residency(limits, self.clock)
        for name, gib in sizes.items():
            self.residency.declare(name, gib * GIB)
        self.under_way = []
        self.settled = {}

    def advance(self):
        actions = self.residency.plan()
        for action in actions:
            resident = self.residency.find(action.name)
            is_free = not (resident.is_pinned or resident.leases or resident.waiting)
            assert action.is_load or is_free
        self.under_way += actions
        self.settled |= dict(self.residency.take_settled())

    def ask(self, name):
        lease = self.residency.ask(name)
        self.advance()
        return lease

    def release(self, lease):
        self.residency.release(lease)
        self.advance()

    def finish(self, place=0, failure=""):
        """The action under way at that place ends."""
        action = self.under_way.pop(place)
        if not action.is_load:
            self.residency.note_unloaded(action.name)
        elif failure:
            self.residency.note_failed(action.name, failure)
        else:
            self.residency.note_loaded(action.name)
        self.advance()
        return action

    def load(self, name):
        """As for a request that is over at once."""
        lease = self.ask(name)
        while self.under_way:
            self.finish()
        assert self.settled[lease] is None
        self.release(lease)

    def wait(self, seconds):
        self.clock.now_s += seconds
        self.advance()

    def loaded(self):
        return {resident.name for resident in self.residency.residents if resident.takes_memory}
