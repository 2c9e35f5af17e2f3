"""The core of the model manager: whatever is asked of it, in whatever order."""

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from planned_server import GIB, ROOM_TIMEOUT_S, SIZES, Server

from tritonlm.errors import InvalidArgument, NotFound, ServingError, Unavailable
from tritonlm.manager.limits import Limits
from tritonlm.manager.residency import FAILURE_KEPT_S, Action
from tritonlm.manager.resident import State


def test_a_model_is_loaded_once_for_all_who_wait():
    server = Server()
    leases = [server.ask("small") for _ in range(3)]
    assert server.under_way == [Action("small", True)]
    assert not server.settled
    server.finish()
    assert server.settled == dict.fromkeys(leases)
    assert server.ask("small") in server.settled


def test_the_least_recently_used_model_makes_room():
    server = Server(budget_gib=3)
    server.load("small")
    server.wait(1)
    server.load("middle")
    server.wait(1)
    server.load("small")  # a use, not a load
    server.residency.declare("new", GIB)
    lease = server.ask("new")
    assert server.finish() == Action("middle", False)
    assert lease not in server.settled, "it must not be loaded before there is room"
    assert server.finish() == Action("new", True)
    assert server.settled[lease] is None


def test_a_count_of_models_is_a_limit_too():
    server = Server(max_models=1, budget_gib=None)
    server.load("small")
    server.ask("middle")
    assert server.under_way == [Action("small", False)]


def test_what_is_in_use_stays_and_who_waits_is_told_so():
    server = Server()
    in_use = server.ask("large")
    server.finish()
    lease = server.ask("middle")
    assert not server.under_way
    server.wait(ROOM_TIMEOUT_S - 1)
    assert lease not in server.settled
    server.wait(1)
    assert "in use: large; retry later" in server.settled[lease].message
    again = server.ask("middle")
    server.release(in_use)
    assert server.finish() == Action("large", False)
    assert server.finish() == Action("middle", True)
    assert server.settled[again] is None


def test_a_failure_is_told_to_all_who_wait_and_for_a_while_to_those_who_come():
    server = Server()
    leases = [server.ask("small"), server.ask("small")]
    server.finish(failure="out of memory")
    for lease in leases:
        assert server.settled[lease].message == (
            "the model small cannot be loaded: out of memory")
    with pytest.raises(Unavailable, match="out of memory"):
        server.ask("small")
    server.wait(FAILURE_KEPT_S)
    server.load("small")
    assert server.residency.find("small").failure == ""


@pytest.mark.parametrize("pinned", [[], ["middle"]])
def test_a_model_larger_than_what_there_is_for_it_is_refused_at_once(pinned):
    server = Server()
    for name in pinned:
        server.residency.pin(name)
    with pytest.raises(Unavailable, match=r"needs \d\.00 GiB: there is no room .*budget of 4\.00"):
        server.ask("huge" if not pinned else "large")
    server.load("small")


def test_pins_that_do_not_fit_together_are_refused():
    server = Server()
    server.residency.pin("large")
    with pytest.raises(Unavailable, match="beside the pinned large"):
        server.residency.pin("middle")
    server.residency.unpin("large")
    server.residency.pin("middle")


def test_a_pinned_model_is_never_unloaded():
    server = Server(idle_ttl_s=5)
    server.residency.pin("middle")
    server.load("middle")
    server.wait(100)
    server.load("small")
    server.wait(1)
    assert server.loaded() == {"middle", "small"}
    with pytest.raises(InvalidArgument, match="pinned"):
        server.residency.unload("middle")


def test_an_idle_model_goes_after_its_time_counted_from_its_last_use():
    server = Server(idle_ttl_s=5)
    lease = server.ask("small")
    server.finish()
    server.wait(100)
    assert server.loaded() == {"small"}, "it is in use"
    server.release(lease)
    assert server.residency.due_s() == server.clock.now_s + 5
    server.wait(4.9)
    assert server.loaded() == {"small"}
    server.wait(0.1)
    assert server.under_way == [Action("small", False)]
    assert server.residency.due_s() == math.inf


def test_what_is_asked_for_while_it_is_unloaded_is_loaded_again():
    server = Server()
    server.load("small")
    assert server.residency.unload("small")
    lease = server.ask("small")
    assert not server.under_way
    server.residency.note_unloaded("small")
    server.advance()
    server.finish()
    assert server.settled[lease] is None


def test_what_is_loaded_again_has_room_for_what_it_needs_by_then():
    server = Server()
    server.load("small")
    server.load("large")
    assert server.residency.unload("small")
    server.residency.declare("small", 2 * GIB)
    server.ask("small")
    assert server.residency.memory_bytes == 4 * GIB, "it goes as what it came as"
    server.residency.note_unloaded("small")
    server.advance()
    assert server.under_way == [Action("large", False)]


def test_a_model_in_use_cannot_be_unloaded():
    server = Server()
    server.ask("small")
    with pytest.raises(Unavailable, match="small is loading, and 1 requests use it"):
        server.residency.unload("small")


def test_a_model_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(NotFound, match="'none' does not exist; there are: huge, large, middle"):
        Server().ask("none")


def test_what_grows_must_have_room():
    server = Server()
    server.load("middle")
    server.residency.resize("middle", 4 * GIB)
    with pytest.raises(Unavailable, match=r"need 5\.00 GiB, more than the budget of 4\.00"):
        server.residency.resize("middle", 5 * GIB)


@pytest.mark.parametrize(("name", "value"), [("max_models", 0), ("memory_budget_gib", -1.0),
                                             ("idle_ttl_s", 0.0), ("room_timeout_s", 0.0)])
def test_limits_are_more_than_nothing(name, value):
    with pytest.raises(InvalidArgument, match=f"^{name}: "):
        Limits(**{name: value})


class AnyOrder(RuleBasedStateMachine):
    """Requests, loads and unloads that end or fail, and time, in any order."""

    def __init__(self):
        super().__init__()
        self.server = Server(max_models=3, idle_ttl_s=30)
        self.open = set()

    @rule(name=st.sampled_from(list(SIZES)))
    def ask(self, name):
        try:
            self.open.add(self.server.ask(name))
        except Unavailable:
            pass

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def release(self, data):
        lease = data.draw(st.sampled_from(sorted(self.open)))
        self.open.remove(lease)
        self.server.release(lease)

    @precondition(lambda self: self.server.under_way)
    @rule(data=st.data(), failure=st.sampled_from(["", "", "broken"]))
    def finish(self, data, failure):
        place = data.draw(st.integers(0, len(self.server.under_way) - 1))
        self.server.finish(place, failure)

    @rule(seconds=st.sampled_from([0.1, 5.0, 31.0, 61.0]))
    def wait(self, seconds):
        self.server.wait(seconds)

    @rule(name=st.sampled_from(list(SIZES)), is_pinned=st.booleans())
    def pin(self, name, is_pinned):
        try:
            (self.server.residency.pin if is_pinned else self.server.residency.unpin)(name)
        except ServingError:
            pass
        self.server.advance()

    @rule(name=st.sampled_from(list(SIZES)))
    def unload(self, name):
        try:
            if self.server.residency.unload(name):
                self.server.under_way.append(Action(name, False))
        except ServingError:
            pass

    @rule(name=st.sampled_from(list(SIZES)), gib=st.integers(1, 5))
    def declare(self, name, gib):
        self.server.residency.declare(name, gib * GIB)

    @invariant()
    def it_is_never_over_its_limits(self):
        assert self.server.residency.memory_bytes <= 4 * GIB
        assert len(self.server.loaded()) <= 3

    @invariant()
    def what_is_in_use_is_ready(self):
        for resident in self.server.residency.residents:
            if resident.leases:
                assert resident.state == State.READY

    @invariant()
    def a_granted_lease_is_one_of_a_ready_model(self):
        held = {lease for resident in self.server.residency.residents
                for lease in resident.leases}
        granted = {lease for lease in self.open if self.server.settled.get(lease, "") is None}
        assert granted == held

    def teardown(self):
        """Whoever waits is answered once all that is under way has ended, and time has passed."""
        for _ in range(20):
            while self.server.under_way:
                self.server.finish()
            self.server.wait(ROOM_TIMEOUT_S)
        assert self.open <= self.server.settled.keys()


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=40)
