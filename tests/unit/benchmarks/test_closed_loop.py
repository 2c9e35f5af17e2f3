"""The loop around an engine, and what is measured in it."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.closed_loop import ClosedLoop
from benchmarks.workload import Speed, Workload, request
from tests.unit.benchmarks.fake_engine import FakeEngine

VOCAB_SIZE = 50


def run(engine, workload, **options):
    loop = ClosedLoop(engine, workload.requests(VOCAB_SIZE, seed=0), workload.concurrency,
                      clock=engine.clock, **options)
    return loop, loop.run()


def test_no_more_requests_than_the_concurrency_are_unfinished():
    engine = FakeEngine()
    _, timeline = run(engine, Workload(3, 10, 4, 5))
    assert engine.most_unfinished == 3
    assert timeline.num_tokens.tolist() == [5] * 10


def test_a_request_is_submitted_when_another_has_ended():
    _, timeline = run(FakeEngine(), Workload(2, 4, 4, 5))
    assert timeline.submitted_s.tolist() == [0, 0, 2.5, 2.5]
    assert timeline.submitted_step.tolist() == [0, 0, 5, 5]


def test_first_and_last_tokens_have_their_times():
    _, timeline = run(FakeEngine(), Workload(2, 2, 4, 5))
    assert timeline.first_s.tolist() == [0.5, 0.5]
    assert timeline.last_s.tolist() == [2.5, 2.5]


def test_speed_of_a_full_engine():
    loop, timeline = run(FakeEngine(), Workload(4, 8, 4, 5))
    speed = Speed.of(timeline, loop.num_steps)
    assert speed == Speed(output_tokens_per_s=8.0, tpot_median_ms=500, ttft_median_ms=500,
                          ttft_p99_ms=500, wall_s=5.0, num_steps=10, step_ms=500)


def test_waiting_counts_in_the_time_to_the_first_token():
    loop, timeline = run(FakeEngine(num_places=1), Workload(2, 2, 4, 4))
    speed = Speed.of(timeline, loop.num_steps)
    assert (speed.ttft_median_ms, speed.ttft_p99_ms) == (1500, pytest.approx(2480))
    assert speed.tpot_median_ms == 500


def test_an_interjected_request_does_not_take_a_place_in_the_loop():
    engine = FakeEngine(num_places=2)
    urgent = request(6, np.arange(4), 2, priority=0)
    loop, timeline = run(engine, Workload(2, 6, 4, 3), interjected={4: urgent})
    assert timeline.submitted_step[6] == 4
    assert timeline.first_step[6] == 6, "both places are taken until then"
    assert timeline.num_tokens.tolist() == [3] * 6 + [2]
    assert loop.num_left == 0


def test_how_many_have_ended_is_told():
    told = []
    engine = FakeEngine()
    loop = ClosedLoop(engine, Workload(2, 5, 4, 3).requests(VOCAB_SIZE, 0), 2, clock=engine.clock)
    loop.run(told.append)
    assert told == [2, 2, 1]


def test_a_failed_step_ends_the_run():
    engine = FakeEngine()
    engine.failure = "no memory"
    with pytest.raises(RuntimeError, match="no memory"):
        run(engine, Workload(1, 1, 4, 2))


def test_requests_are_the_same_for_the_same_seed_only():
    workload = Workload(2, 3, 16, 5)
    first, same, other = (workload.requests(VOCAB_SIZE, seed) for seed in (1, 1, 2))
    assert first == same
    assert {r.token_ids for r in first}.isdisjoint(r.token_ids for r in other)
    assert all(r.num_prompt_tokens == 16 and r.ignore_eos and r.temperature == 0 for r in first)
