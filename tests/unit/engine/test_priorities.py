"""Classes, and ageing."""

from __future__ import annotations

import numpy as np
import pytest
from arithmetic import assert_clean, expected, make_engine, run_until_idle
from drive import Outcomes, submit
from turns import long, order_of_first_tokens, short

from tritonlm.engine.queue import WaitingQueue
from tritonlm.engine.request import Request, lane_of
from tritonlm.engine.users import Users

URGENT, HIGH, NORMAL, LOW = range(4)


class Clock:
    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("num_blocks", [24, 44], ids=["blocks are short", "rows are short"])
def test_urgent_requests_start_at_once_under_a_full_load_of_normal_ones(depth, num_blocks):
    engine = make_engine(num_rows=4, num_blocks=num_blocks, depth=depth)
    outcomes = Outcomes()
    for key in range(20):
        engine.submit(0, long(key))
    for _ in range(10):
        outcomes.gather(engine.step())
    urgent = [submit(key, [key] * 9, 3, ignore_eos=True, priority=URGENT) for key in (20, 21)]
    for request in urgent:
        engine.submit(0, request)
    for _ in range(3):
        outcomes.gather(engine.step())
    assert set(outcomes.token_ids) >= {20, 21}
    assert engine.stats().num_preemptions >= 1
    outcomes.gather(run_until_idle(engine))
    assert set(outcomes.reasons) == set(range(22))
    for key in range(20):
        assert outcomes.token_ids[key] == expected([8 + key, 9, 10], 40, ignore_eos=True)
    assert_clean(engine)


def test_an_urgent_prompt_goes_before_a_long_one_that_is_half_done():
    engine = make_engine(max_num_batched_tokens=8)
    outcomes = Outcomes()
    engine.submit(0, submit(0, range(8, 31), 1))
    engine.step()
    engine.submit(0, submit(1, [9] * 8, 1, priority=URGENT))
    outcomes.gather(engine.step())
    assert list(outcomes.reasons) == [1]


def test_nobody_is_thrown_out_in_vain():
    engine = make_engine(num_rows=4, num_blocks=12)
    engine.submit(0, submit(0, range(8, 31), 16, ignore_eos=True, priority=URGENT))
    engine.submit(0, submit(1, [9] * 4, 12, ignore_eos=True))
    engine.step()
    engine.submit(0, submit(2, range(30, 7, -1), 1, priority=URGENT))
    engine.step()
    assert engine.stats().num_preemptions == 0


def test_a_higher_class_is_let_in_first():
    engine = make_engine(num_rows=1)
    engine.submit(0, long(0))
    engine.step()
    for key, priority in enumerate((LOW, NORMAL, HIGH, NORMAL), start=1):
        engine.submit(0, short(key, priority=priority))
    order = order_of_first_tokens(engine)
    assert order.index(3) < order.index(2) < order.index(4) < order.index(1)


def test_requests_of_one_class_and_user_are_let_in_in_order_of_arrival():
    engine = make_engine(num_rows=1)
    for key in range(6):
        engine.submit(0, short(key))
    assert order_of_first_tokens(engine) == list(range(6))


def num_steps_until_started(priority, stream_priority, ageing_s):
    """How long a request waits beside a stream of others that takes more than there is."""
    clock = Clock()
    engine = make_engine(num_rows=1, clock=clock, priority_ageing_s=ageing_s)
    engine.submit(0, short(1, priority=stream_priority))
    engine.submit(0, short(0, priority=priority))

    def each_step(number):
        clock.now_s += 1.0
        engine.submit(0, short(2 + number, priority=stream_priority))

    outcomes = Outcomes()
    for number in range(300):
        each_step(number)
        outcomes.gather(engine.step())
        if 0 in outcomes.reasons:
            return number
    return None


@pytest.mark.parametrize(("priority", "stream_priority"), [
    (LOW, NORMAL), (LOW, HIGH), (LOW, URGENT), (NORMAL, URGENT)])
def test_a_stream_of_a_higher_class_starves_nobody(priority, stream_priority):
    num_steps = num_steps_until_started(priority, stream_priority, ageing_s=10.0)
    assert num_steps is not None
    assert num_steps >= 10 * (priority - max(stream_priority, 1))


def test_a_stream_of_urgent_prompts_does_not_hold_up_one_that_is_half_done():
    clock = Clock()
    engine = make_engine(num_rows=4, clock=clock, max_num_batched_tokens=8, prefix_cache=False)
    outcomes = Outcomes()
    engine.submit(0, submit(0, range(8, 31), 1))
    for number in range(60):
        outcomes.gather(engine.step())
        engine.submit(0, submit(1 + number, [9] * 8, 1, priority=URGENT))
        clock.now_s += 1.0
    assert 0 in outcomes.reasons
    assert len(outcomes.reasons) > 50


def test_without_ageing_a_stream_of_a_higher_class_does_starve():
    assert num_steps_until_started(LOW, NORMAL, ageing_s=1e9) is None


def test_aged_requests_do_not_hold_up_urgent_ones():
    clock = Clock()
    engine = make_engine(num_rows=2, clock=clock, priority_ageing_s=1.0)
    for key in range(20):
        engine.submit(0, long(key))
    for _ in range(10):
        engine.step()
        clock.now_s += 1.0
    outcomes = Outcomes()
    engine.submit(0, short(30, priority=URGENT))
    for _ in range(2):
        outcomes.gather(engine.step())
    assert 30 in outcomes.reasons


def test_running_requests_that_have_aged_do_not_hold_up_urgent_ones():
    clock = Clock()
    engine = make_engine(num_rows=4, num_blocks=60, clock=clock, priority_ageing_s=10.0)
    outcomes = Outcomes()
    for key in range(60):
        engine.submit(0, long(key))
    for _ in range(100):
        outcomes.gather(engine.step())
        clock.now_s += 1.0
    assert engine.stats().num_preemptions == 0
    engine.submit(0, short(60, priority=URGENT))
    outcomes.gather(engine.step())
    assert 60 in outcomes.token_ids
    outcomes.gather(run_until_idle(engine))
    assert set(outcomes.reasons) == set(range(61))


def test_an_aged_request_that_has_had_its_turn_before_urgent_ones_is_not_thrown_out():
    clock = Clock()
    engine = make_engine(num_rows=1, clock=clock, priority_ageing_s=1.0)
    engine.submit(0, submit(0, [9, 10], 8, ignore_eos=True))
    outcomes, waited = Outcomes(), {}
    for number in range(1, 60):
        engine.submit(0, short(number, priority=URGENT))
        outcomes.gather(engine.step())
        clock.now_s += 1.0
        waited[number] = len(outcomes.token_ids[0])
        if 0 in outcomes.reasons:
            break
    assert 0 in outcomes.reasons
    progress = [number for number in waited if 0 < waited[number] < 8]
    assert progress == list(range(progress[0], progress[0] + len(progress)))
    assert engine.stats().num_preemptions <= 1


def test_an_aged_request_that_starts_in_the_gaps_between_urgent_ones_comes_to_its_end():
    clock = Clock()
    engine = make_engine(num_rows=1, clock=clock, priority_ageing_s=1.0, prefix_cache=False,
                         max_num_batched_tokens=4)
    engine.submit(0, submit(0, range(8, 31), 2, ignore_eos=True, priority=LOW))
    outcomes = Outcomes()
    for number in range(1, 200):
        if number % 6 == 0:
            engine.submit(0, short(number, priority=URGENT))
        outcomes.gather(engine.step())
        clock.now_s += 1.0
    assert 0 in outcomes.reasons
    assert outcomes.token_ids[0] == expected(range(8, 31), 2, ignore_eos=True)
    assert outcomes.reasons.keys() >= set(range(6, 180, 6))


def test_aged_requests_do_not_throw_out_their_like():
    clock = Clock()
    engine = make_engine(num_rows=2, clock=clock, priority_ageing_s=1.0)
    for key in range(8):
        engine.submit(0, long(key))
    while engine.has_work:
        engine.step()
        clock.now_s += 1.0
    assert engine.stats().num_preemptions == 0


def test_waiting_requests_are_cancelled_wherever_they_stand():
    engine = make_engine(num_rows=1)
    for key in range(6):
        engine.submit(0, short(key, user="ab"[key % 2], priority=key % 4))
    engine.step()
    for key in range(6):
        assert engine.cancel_by_id(f"request {key}").keys.tolist() == [key]
    assert_clean(engine)


def test_who_is_thrown_out_goes_before_the_others_of_its_class():
    engine = make_engine(num_rows=1)
    for key in range(3):
        engine.submit(0, long(key))
    for _ in range(3):
        engine.step()
    engine.submit(0, short(3, priority=URGENT))
    outcomes = Outcomes()
    outcomes.gather(run_until_idle(engine))
    assert list(outcomes.reasons) == [3, 0, 1, 2]


def test_all_the_time_that_a_request_waits_counts():
    queue = WaitingQueue(Users(), ageing_s=10.0)
    low, normal = (Request(0, submit(key, [9], priority=priority), key, 0, np.array([9], np.int32),
                           lane_of(priority), until_promotion_s=10.0)
                   for key, priority in enumerate((LOW, NORMAL)))
    queue.enter(low, 0.0)
    queue.take(low, 1, 8.0)
    queue.enter(low, 50.0)
    queue.age(51.0)
    assert low.priority == LOW
    queue.age(53.0)
    assert low.priority == NORMAL
    queue.enter(normal, 53.0)
    assert queue.first() is low
