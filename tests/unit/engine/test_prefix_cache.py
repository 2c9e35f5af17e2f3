"""Tokens that are found again, and computed once by who needs them at the same time."""

from __future__ import annotations

import pytest
from arithmetic import assert_clean, expected, make_engine, run_until_idle
from drive import Outcomes, run_all, submit

URGENT, NORMAL, LOW = 0, 2, 3
PROMPT = [*range(8, 31)]


def num_computed(engine, request):
    before = engine.device.num_tokens
    outcomes = run_all(engine, {0: [request]})
    assert outcomes.token_ids[request.key] == expected(
        request.prompt(), request.max_tokens, request.ignore_eos)
    return engine.device.num_tokens - before


def test_a_prompt_that_was_there_before_is_computed_from_its_last_part_block_on():
    engine = make_engine()
    assert num_computed(engine, submit(0, PROMPT, 1)) == 23
    assert num_computed(engine, submit(1, PROMPT, 1)) == 3
    assert num_computed(engine, submit(2, [*PROMPT[:9], 8, 8, 8], 1)) == 4
    stats = engine.stats()
    assert (stats.num_prefix_tokens_looked_up, stats.num_prefix_tokens_hit) == (58, 28)
    assert_clean(engine)


def test_the_last_token_of_a_prompt_is_always_computed():
    engine = make_engine(block_size=1)
    num_computed(engine, submit(0, PROMPT, 1))
    assert num_computed(engine, submit(1, PROMPT, 1)) == 1


def test_a_prompt_whose_probabilities_are_asked_for_is_computed_as_a_whole():
    engine = make_engine()
    for key in range(2):
        assert num_computed(engine, submit(key, PROMPT, 1, num_prompt_logprobs=0)) == 23


def test_generated_tokens_are_found_by_the_next_turn_of_a_dialogue():
    engine = make_engine()
    num_computed(engine, submit(0, PROMPT, 10, ignore_eos=True))
    answer = expected(PROMPT, 10, ignore_eos=True)
    assert num_computed(engine, submit(1, [*PROMPT, *answer, 9, 9], 1)) == 35 - 32


def test_the_same_tokens_after_others_are_not_the_same():
    engine = make_engine()
    num_computed(engine, submit(0, [9, 10, 11, 12, *PROMPT[:8]], 1))
    assert num_computed(engine, submit(1, [9, 10, 11, 13, *PROMPT[:8]], 1)) == 12


def test_switched_off_it_finds_nothing():
    engine = make_engine(prefix_cache=False)
    for key in range(2):
        assert num_computed(engine, submit(key, PROMPT, 1)) == 23
    stats = engine.stats()
    assert (stats.num_prefix_tokens_looked_up, stats.num_prefix_tokens_hit) == (0, 0)


def test_what_was_used_longest_ago_is_forgotten_first():
    engine = make_engine(num_blocks=8)
    prompts = [[key] * 9 for key in (10, 11, 12)]
    for key in range(3):
        num_computed(engine, submit(key, prompts[key], 1))
    assert num_computed(engine, submit(3, prompts[1], 1)) == 1
    num_computed(engine, submit(4, [20] * 17, 1))
    assert num_computed(engine, submit(5, prompts[1], 1)) == 1
    assert num_computed(engine, submit(6, prompts[0], 1)) == 9


def test_the_end_of_a_prompt_is_forgotten_before_its_beginning():
    engine = make_engine(num_blocks=8)
    num_computed(engine, submit(0, PROMPT, 1))
    num_computed(engine, submit(1, [9] * 13, 1))
    assert num_computed(engine, submit(2, PROMPT, 1)) == 23 - 4 * 4


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("chunk", [64, 8])
def test_samples_of_one_prompt_compute_it_once(depth, chunk):
    engine = make_engine(num_rows=6, num_blocks=60, depth=depth, max_prefill_chunk=chunk)
    outcomes = run_all(engine, {0: [submit(key, PROMPT, 1) for key in range(6)]})
    assert engine.device.num_tokens == 23 + 5 * 3
    assert outcomes.token_ids == {key: expected(PROMPT, 1) for key in range(6)}
    assert_clean(engine)


def test_who_waits_for_a_prompt_lets_others_pass():
    engine = make_engine(max_prefill_chunk=8)
    outcomes = Outcomes()
    for key in range(2):
        engine.submit(0, submit(key, PROMPT, 1))
    engine.submit(0, submit(2, [9, 9], 1))
    outcomes.gather(engine.step())
    assert list(outcomes.reasons) == [2]
    assert engine.stats().num_waiting == 1


def test_who_has_waited_for_a_prompt_keeps_its_place():
    engine = make_engine(num_rows=1)
    for key in range(3):
        engine.submit(0, submit(key, PROMPT, 3, ignore_eos=True))
    engine.submit(0, submit(3, [9, 9], 3, ignore_eos=True))
    outcomes = Outcomes()
    outcomes.gather(run_until_idle(engine))
    assert list(outcomes.reasons) == [0, 1, 2, 3]


def test_who_shares_the_beginning_waits_for_no_more_than_that():
    engine = make_engine(max_num_batched_tokens=12, max_prefill_chunk=8)
    outcomes = Outcomes()
    engine.submit(0, submit(0, PROMPT, 1))
    engine.submit(0, submit(1, [*PROMPT[:5], 9], 1))
    engine.step()
    outcomes.gather(engine.step())
    assert list(outcomes.reasons) == [1]


@pytest.mark.parametrize("depth", [0, 1])
def test_who_waits_for_a_prompt_goes_on_alone_when_that_is_cancelled(depth):
    engine = make_engine(depth=depth, max_num_batched_tokens=8)
    for key in range(3):
        engine.submit(0, submit(key, PROMPT, 2))
    engine.step()
    engine.cancel(0, 0)
    engine.cancel(0, 1)
    outcomes = Outcomes()
    outcomes.gather(run_until_idle(engine))
    assert outcomes.token_ids == {2: expected(PROMPT, 2)}
    assert_clean(engine)


def test_an_urgent_request_does_not_wait_for_one_of_a_lower_class():
    engine = make_engine(max_num_batched_tokens=8)
    engine.submit(0, submit(0, PROMPT, 1, priority=LOW))
    engine.step()
    engine.submit(0, submit(1, PROMPT, 1, priority=URGENT))
    engine.submit(0, submit(2, PROMPT, 1, priority=URGENT))
    outcomes = Outcomes()
    for _ in range(2):
        outcomes.gather(engine.step())
    assert list(outcomes.reasons) == [1]
    outcomes.gather(run_until_idle(engine))
    assert len(outcomes.reasons) == 3
    # 8 for both, then the other 15 by the first and the second, and 3 by the third.
    assert engine.device.num_tokens == 8 + 15 + 15 + 3
    assert_clean(engine)


def test_a_failed_step_leaves_nothing_to_be_found():
    engine = make_engine(depth=1, max_num_batched_tokens=8)
    engine.device.faults = {1: "tokens"}
    for key in range(2):
        engine.submit(0, submit(key, PROMPT, 2))
    outcomes = Outcomes()
    outcomes.gather(run_until_idle(engine))
    assert list(outcomes.failures) == [0]
    assert outcomes.token_ids[1] == expected(PROMPT, 2)


def test_a_preempted_request_finds_its_blocks_again():
    engine = make_engine(num_rows=1)
    outcomes = Outcomes()
    engine.submit(0, submit(0, PROMPT, 8, ignore_eos=True))
    for _ in range(6):
        outcomes.gather(engine.step())
    engine.submit(0, submit(1, [9, 9], 2, ignore_eos=True, priority=URGENT))
    before = engine.device.num_tokens
    outcomes.gather(run_until_idle(engine))
    assert engine.stats().num_preemptions == 1
    assert outcomes.token_ids[0] == expected(PROMPT, 8, ignore_eos=True)
    assert outcomes.token_ids[1] == expected([9, 9], 2, ignore_eos=True)
    # 28 tokens were known, the blocks of the first 24 are there; then come two more tokens.
    assert engine.device.num_tokens - before == 3 + 4 + 2
