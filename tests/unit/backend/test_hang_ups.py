"""Which clients are asked about, and when."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import pytest

from tritonlm.backend.hang_ups import INTERVAL_S, MAX_SHARE, SLICE_S, HangUps

ASKING_S = 0.0001


class Client:
    """An answer that takes time to say whether it is abandoned."""

    def __init__(self, time):
        self._time = time
        self.asked_s = []
        self.is_gone = self.is_finished = False

    def is_abandoned(self):
        assert not self.is_finished, "a crash on tritonserver 24.10"
        self._time.now_s += ASKING_S
        self.asked_s.append(self._time.now_s)
        return self.is_gone


@pytest.fixture
def time():
    return SimpleNamespace(now_s=0.0)


@pytest.fixture
def hang_ups(time):
    return HangUps(lambda: time.now_s)


@pytest.fixture
def connect(time):
    return lambda number: [SimpleNamespace(answer=Client(time)) for _ in range(number)]


def pass_time(time, hang_ups, streams, end_s):
    """Ask whenever it is time to; gives the longest slice and the share of time that it took."""
    found, slices = [], []
    while time.now_s < end_s:
        time.now_s = max(time.now_s, hang_ups.due_s)
        began_s = time.now_s
        found += hang_ups.find([one for one in streams if not one.answer.is_finished])
        slices.append(time.now_s - began_s)
    return found, max(slices), sum(slices) / time.now_s


@pytest.mark.parametrize(("number", "interval_s"), [(1, 0.1), (200, 0.1), (450, 0.2), (900, 0.4)])
def test_clients_are_asked_about_as_often_as_time_allows(
    time, hang_ups, connect, number, interval_s
):
    streams = connect(number)
    found, longest_s, share = pass_time(time, hang_ups, streams, end_s=4.0)
    assert found == []
    assert longest_s <= SLICE_S + ASKING_S
    assert share <= MAX_SHARE * 1.01
    for stream in streams:
        asked_s = stream.answer.asked_s
        gaps = [after - before for before, after in pairwise(asked_s)]
        assert max(gaps) <= interval_s + SLICE_S / MAX_SHARE
        assert max(gaps) >= INTERVAL_S - ASKING_S


def test_who_has_hung_up_is_found(time, hang_ups, connect):
    streams = connect(100)
    streams[70].answer.is_gone = True
    found, _, _ = pass_time(time, hang_ups, streams, end_s=0.05)
    assert found == [streams[70]]


def test_nobody_is_asked_about_after_the_final_response(time, hang_ups, connect):
    streams = connect(100)
    hang_ups.find(streams)
    for stream in streams:
        stream.answer.is_finished = True
    pass_time(time, hang_ups, streams, end_s=1.0)
