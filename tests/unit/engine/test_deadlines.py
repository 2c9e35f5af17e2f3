"""Which requests are out of time, however many there have been."""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from tritonlm.engine.deadlines import NUM_SPARE, Deadlines


def watch(requests, deadlines, name, deadline_s):
    requests[name] = SimpleNamespace(submit=SimpleNamespace(deadline_s=deadline_s))
    deadlines.add(name)


def test_memory_is_bounded_by_the_requests_that_are_not_over():
    requests, longest = {}, 0
    deadlines = Deadlines(requests)
    for key in range(20_000):
        watch(requests, deadlines, (0, key), 1e6 + key)
        requests.pop((0, key - 10), None)
        longest = max(longest, len(deadlines))
    assert longest <= 2 * 11 + NUM_SPARE + 1
    assert sorted(deadlines.pass_by(2e6)) == sorted(requests)
    assert len(deadlines) == 0


@given(st.lists(st.tuples(st.integers(0, 9), st.none() | st.integers(0, 30)), max_size=300))
def test_who_is_late_is_found_once_and_nobody_else(events):
    """Requests come with a name and a deadline, or end without one; names are taken again."""
    requests = {}
    deadlines = Deadlines(requests)
    for now_s, (key, time_s) in enumerate(events):
        if time_s is None:
            requests.pop((0, key), None)
        elif (0, key) not in requests:
            watch(requests, deadlines, (0, key), now_s + time_s + key / 100)
        late = deadlines.pass_by(now_s)
        assert sorted(late) == sorted(name for name, request in requests.items()
                                      if request.submit.deadline_s <= now_s)
        for name in late:
            del requests[name]
