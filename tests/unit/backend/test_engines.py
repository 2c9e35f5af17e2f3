"""A front end with several engines, which are sockets here that say what a test has them say."""

from __future__ import annotations

import os
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from engine_peer import TIMEOUT_S, Peer

from tritonlm.backend.engines import EngineLost, Engines, EngineStats
from tritonlm.config import ModelConfig
from tritonlm.engine import messages
from tritonlm.engine.endpoint import Endpoint
from tritonlm.engine.messages import Cancel, CancelById, CancelReply, Ready, Stats, Submit

LIMITS = Ready(100, 100)


@pytest.fixture
def keepers():
    return [SimpleNamespace(num_starts=index + 1, note_ready=lambda: None,
                            note_goodbye=lambda: None) for index in range(2)]


@pytest.fixture
def engines(tmp_path, keepers):
    wake_fd = os.eventfd(0, os.EFD_NONBLOCK)
    config = ModelConfig(num_engines=2, block_size=4)
    engines = Engines(config, Endpoint(tmp_path), wake_fd, keepers)
    engines.connect()
    yield engines
    engines.close()
    os.close(wake_fd)


@pytest.fixture
def peers(engines, tmp_path):
    """Both engines, ready."""
    peers = [Peer(Endpoint(tmp_path).engine(index).address) for index in range(2)]
    for peer in peers:
        assert peer.heard() == [messages.Hello()]
        peer.say(LIMITS)
    events(engines, 2)
    yield peers
    for peer in peers:
        peer.close()


def events(engines, number):
    """The next `number` events, in order of engines if they come together."""
    found, deadline_s = [], time.monotonic() + TIMEOUT_S
    while len(found) < number:
        assert time.monotonic() < deadline_s, found
        engines.wait(100)
        found += engines.receive()
    assert len(found) == number, found
    return found


def submit(key, *token_ids):
    return Submit(key, "", np.array(token_ids, np.int32).tobytes(), max_tokens=1)


def test_requests_are_shared_out_and_cancelled_where_they_run(engines, peers):
    for key in (1, 2, 3, 4):
        engines.submit([submit(key, key)])
    engines.flush()
    keys = [[one.key for one in peer.heard()] for peer in peers]
    assert [len(own) for own in keys] == [2, 2]
    assert sorted(keys[0] + keys[1]) == [1, 2, 3, 4]
    engines.cancel([keys[0][0], keys[1][1], 99])
    engines.flush()
    assert [peer.heard() for peer in peers] == [[Cancel(keys[0][0])], [Cancel(keys[1][1])]]


def test_sequences_of_a_prompt_stay_together(engines, peers):
    engines.submit([submit(key, 7) for key in (1, 2, 3)])
    engines.submit([submit(4, 8)])
    engines.flush()
    assert sorted([one.key for one in peer.heard()] for peer in peers) == [[1, 2, 3], [4]]


def test_what_other_front_ends_send_decides_among_equals(engines, peers):
    peers[0].say(Stats(num_running=3, num_waiting=2, num_blocks_used=0, num_blocks=9))
    [event] = events(engines, 1)
    assert event == EngineStats(0, Stats(3, 2, 0, 9), num_starts=1)
    for key in range(4):
        engines.submit([submit(key, key)])
    engines.flush()
    assert [[one.key for one in peer.heard()] for peer in peers] == [[1, 3], [0, 2]]


def test_old_news_of_an_engine_does_not_bring_it_all_requests(engines, peers):
    """All front ends have the same news: if they went by it, the other engine would be idle."""
    peers[0].say(Stats(num_running=50, num_waiting=0, num_blocks_used=0, num_blocks=9))
    events(engines, 1)
    for key in range(20):
        engines.submit([submit(key, key)])
    engines.forget([key for key in range(20) if key % 2])
    for key in range(20, 30):
        engines.submit([submit(key, key)])
    engines.flush()
    own = [{one.key for one in peer.heard()} - set(range(1, 20, 2)) for peer in peers]
    assert [len(keys) for keys in own] == [10, 10]


def test_a_front_end_that_started_no_engine_shows_no_gauges(engines, peers, keepers):
    keepers[0].num_starts = 0
    for peer in peers:
        peer.say(Stats(0, 0, 0, 9))
    assert [event.engine for event in events(engines, 1)] == [1]


def test_a_cancel_by_id_asks_all_engines_and_is_answered_once(engines, peers):
    engines.cancel_by_id(5, "mine")
    engines.flush()
    assert [peer.heard() for peer in peers] == [[CancelById(5, "mine")]] * 2
    peers[1].say(CancelReply(5, 2))
    engines.wait(1000)
    assert list(engines.receive()) == []
    peers[0].say(CancelReply(5, 1))
    assert events(engines, 1) == [CancelReply(5, 3)]


def test_a_lost_engine_takes_its_requests_along_and_no_others(engines, peers):
    peers[1].say(Stats(1, 0, 0, 9))  # so the first goes to the other
    events(engines, 1)
    engines.submit([submit(1, 1)])
    engines.submit([submit(2, 2)])
    engines.forget([2])
    engines.submit([submit(3, 3)])
    engines.cancel_by_id(9, "mine")
    engines.flush()
    peers[0].say(CancelReply(9, 1))
    engines.wait(1000)
    assert list(engines.receive()) == []
    peers[1].close()
    stats, vote, lost = events(engines, 3)
    assert (stats.engine, stats.stats.num_blocks) == (1, 0)
    assert vote == CancelReply(9, 1)
    assert lost in (EngineLost(1, []), EngineLost(1, [3]))
    assert engines.num_ready == 1
    engines.submit([submit(4, 4)])
    engines.flush()
    peers[0].heard()
    assert [one.key for one in peers[0].heard()] == [4]


def test_the_next_engine_is_found_at_the_same_place(engines, peers, tmp_path):
    peers[1].close()
    events(engines, 2)
    peers[1] = Peer(Endpoint(tmp_path).engine(1).address)
    assert peers[1].heard() == [messages.Hello()]
    peers[1].say(LIMITS)
    assert events(engines, 1) == [LIMITS]
    assert engines.num_ready == 2


def test_each_engine_that_cannot_start_says_why(engines, tmp_path):
    assert engines.failures() == []
    Endpoint(tmp_path).engine(1).write_failure("no GPU")
    assert engines.failures() == ["no GPU"]


def test_a_front_end_that_stops_waits_for_what_its_engines_do_for_others(engines, peers, keepers):
    keepers[1].num_starts = 0  # another front end keeps this one
    for peer in peers:
        peer.say(Stats(num_running=1, num_waiting=0, num_blocks_used=1, num_blocks=9))
    deadline_s = time.monotonic() + TIMEOUT_S
    while not all(engine.num_unfinished for engine in engines._engines):
        assert time.monotonic() < deadline_s
        engines.wait(100)
        list(engines.receive())
    waiting = threading.Thread(target=engines.await_idle, args=(deadline_s,))
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    peers[0].say(Stats(num_running=0, num_waiting=0, num_blocks_used=0, num_blocks=9))
    events(engines, 1)
    waiting.join()
    assert time.monotonic() < deadline_s


def test_nobody_waits_for_an_engine_beyond_the_time_for_that(engines, peers):
    engines.submit([submit(1, 7)])
    engines.await_idle(time.monotonic() - 1)
