"""Steps that are launched before the tokens of the ones before are known."""

from __future__ import annotations

import numpy as np
import pytest
from arithmetic import EOS, NUM_IDS, assert_clean, expected, make_engine, run_until_idle
from drive import Outcomes, submit

PROMPT = [9, 10, 11]


def prompt_that_ends_after(num_tokens):
    """A prompt whose answer's token of that number is the end."""
    random = np.random.default_rng(0)
    while True:
        prompt = random.integers(EOS + 1, NUM_IDS, 5).tolist()
        if len(expected(prompt, 30)) == num_tokens:
            return prompt


def test_a_step_is_launched_before_the_one_before_is_read_back():
    engine = make_engine(depth=1)
    engine.submit(0, submit(0, PROMPT, 3, ignore_eos=True))
    num_launched, num_told = [], []
    outcomes = Outcomes()
    while engine.has_work:
        outcomes.gather(engine.step())
        num_launched.append(len(engine.device.batches))
        num_told.append(len(outcomes.token_ids[0]))
    assert num_launched == [1, 2, 3, 3]
    assert num_told == [0, 1, 2, 3]
    assert outcomes.token_ids[0] == expected(PROMPT, 3, ignore_eos=True)
    assert [batch.pending.tolist() for batch in engine.device.batches] == [[False], [True], [True]]
    assert_clean(engine)


def test_nothing_is_computed_beyond_the_length_of_a_request():
    engine = make_engine(depth=1)
    engine.submit(0, submit(0, PROMPT, 7, ignore_eos=True))
    run_until_idle(engine)
    assert engine.device.num_tokens == 3 + 7 - 1


def test_an_end_is_found_out_a_step_late_and_what_that_samples_is_dropped():
    engine = make_engine(depth=1)
    prompt = prompt_that_ends_after(3)
    engine.submit(0, submit(0, prompt, 30))
    outcomes = Outcomes()
    outcomes.gather(run_until_idle(engine))
    assert outcomes.token_ids[0] == expected(prompt, 30)
    assert outcomes.reasons == {0: "stop"}
    assert len(engine.device.batches) == 4
    assert_clean(engine)


@pytest.mark.parametrize("end", ["cancel", "stop"])
def test_the_row_of_a_request_that_is_over_is_not_used_while_a_step_has_it(end):
    engine = make_engine(num_rows=1, depth=1)
    table = engine.scheduler.table
    prompt = prompt_that_ends_after(3)
    engine.submit(0, submit(0, prompt, 30))
    engine.submit(0, submit(1, PROMPT, 4, ignore_eos=True))
    outcomes = Outcomes()
    while 0 in [request.submit.key for request in engine.scheduler.requests.values()]:
        outcomes.gather(engine.step())
        if end == "cancel":
            engine.cancel(0, 0)
    (row,) = engine.device.batches[-1].rows
    assert table.num_in_flight[row] == 1
    assert row not in table._free_rows
    engine.step()
    assert engine.device.batches[-1].rows != row
    outcomes.gather(run_until_idle(engine))
    assert outcomes.token_ids[1][-3:] == expected(PROMPT, 4, ignore_eos=True)[-3:]
    assert_clean(engine)


def test_a_new_request_takes_the_place_of_a_finished_one_without_a_gap():
    engine = make_engine(num_rows=1, depth=1)
    for key in range(3):
        engine.submit(0, submit(key, PROMPT, 2, ignore_eos=True))
    run_until_idle(engine)
    assert len(engine.device.batches) == 6


def test_a_cancelled_request_hears_no_more_of_a_step_under_way():
    engine = make_engine(depth=1)
    for key in range(2):
        engine.submit(0, submit(key, PROMPT, 6, ignore_eos=True))
    outcomes = Outcomes()
    for _ in range(3):
        outcomes.gather(engine.step())
    outcomes.gather([engine.cancel_by_id("request 0")])
    outcomes.gather(run_until_idle(engine))
    assert outcomes.reasons == {0: "cancelled", 1: "length"}
    assert_clean(engine)


def test_the_last_step_is_read_back_when_all_its_requests_are_gone():
    engine = make_engine(depth=1)
    engine.submit(0, submit(0, PROMPT, 6))
    engine.step()
    engine.cancel(0, 0)
    assert engine.has_work
    engine.step()
    assert_clean(engine)


@pytest.mark.parametrize("fault", ["launch", "tokens"])
def test_a_failing_step_fails_those_of_its_requests_that_are_not_over(fault):
    engine = make_engine(num_rows=4, depth=1, prefix_cache=False)
    engine.device.faults = {2: fault}
    for key in range(2):
        engine.submit(0, submit(key, PROMPT, 8, ignore_eos=True))
    outcomes = Outcomes()
    for number in range(3):
        outcomes.gather(engine.step())
        if number == 2:
            outcomes.gather([engine.cancel_by_id("request 0")])
            engine.submit(0, submit(2, [12, 13], 4, ignore_eos=True))
    outcomes.gather(run_until_idle(engine))
    if fault == "launch":
        assert set(outcomes.failures) == {0, 1}
    else:
        assert (set(outcomes.failures), outcomes.reasons[0]) == ({1}, "cancelled")
    assert outcomes.token_ids[2] == expected([12, 13], 4, ignore_eos=True)
    assert outcomes.reasons[2] == "length"
    assert_clean(engine)


def test_who_is_preempted_under_way_computes_the_lost_token_again():
    engine = make_engine(num_blocks=8, depth=1)
    requests = [submit(key, [9 + key] * 7, 14, ignore_eos=True) for key in range(2)]
    for request in requests:
        engine.submit(0, request)
    outcomes = Outcomes()
    outcomes.gather(run_until_idle(engine))
    assert engine.stats().num_preemptions == 1
    for request in requests:
        assert outcomes.token_ids[request.key] == expected(request.prompt(), 14, ignore_eos=True)


def test_nobody_is_preempted_for_blocks_that_are_about_to_come_back():
    engine = make_engine(num_blocks=4, depth=1, prefix_cache=False)
    requests = [submit(0, [9, 10], 6, ignore_eos=True), submit(1, [9, 10, 11], 10, ignore_eos=True)]
    for request in requests:
        engine.submit(0, request)
    outcomes = Outcomes()
    outcomes.gather(run_until_idle(engine))
    assert engine.stats().num_preemptions == 0
    for request in requests:
        assert outcomes.token_ids[request.key] == expected(
            request.prompt(), request.max_tokens, ignore_eos=True)
