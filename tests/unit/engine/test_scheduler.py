"""The scheduler and the engine's bookkeeping, with a model that is arithmetic."""

from __future__ import annotations

import math
from itertools import chain

import numpy as np
import pytest
from arithmetic import (
    EOS,
    MAX_MODEL_LEN,
    NUM_IDS,
    assert_clean,
    assert_holders_are_right,
    expected,
    make_engine,
    run_until_idle,
)
from drive import Outcomes, run_all, submit
from hypothesis import given, settings
from hypothesis import strategies as st

from tritonlm.engine.messages import decode_to_front_end, encode

arriving_requests = st.lists(st.fixed_dictionaries({
    "start": st.integers(0, 12),
    "family": st.integers(0, 2),
    "num_shared": st.integers(0, 24),
    "num_own": st.integers(1, 6),
    "max_tokens": st.integers(1, 18),
    "priority": st.integers(0, 3),
    "user": st.sampled_from(["", "ann", "bob"]),
    "cancelled_after": st.none() | st.integers(0, 20),
    "timeout_s": st.just(math.inf) | st.integers(0, 40),
}), min_size=1, max_size=24)


@settings(max_examples=400)
@given(
    arriving=arriving_requests,
    cache=st.sampled_from([(12, 4), (6, 8), (48, 1), (40, 4)]),
    num_rows=st.integers(1, 6),
    chunk=st.sampled_from([1, 5, 64]),
    depth=st.integers(0, 1),
    is_lazy=st.booleans(),
    prefix_cache=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_every_request_ends_once_with_what_it_gets_alone(
    arriving, cache, num_rows, chunk, depth, is_lazy, prefix_cache, seed
):
    random = np.random.default_rng(seed)
    families = random.integers(EOS + 1, NUM_IDS, (3, 24))
    now_s = [0.0]
    num_blocks, block_size = cache
    engine = make_engine(
        num_rows, num_blocks, block_size, lambda: now_s[0], depth, is_lazy,
        max_num_batched_tokens=max(num_rows, 10), max_prefill_chunk=chunk,
        prefix_cache=prefix_cache)
    arrivals, cancelled = {}, {}
    for key, a in enumerate(arriving):
        prompt = [*families[a["family"], : a["num_shared"]],
                  *random.integers(EOS + 1, NUM_IDS, a["num_own"])]
        arrivals.setdefault(a["start"], []).append(submit(
            key, prompt, a["max_tokens"], priority=a["priority"], user=a["user"],
            deadline_s=float(a["start"] + a["timeout_s"])))
        if a["cancelled_after"] is not None:
            cancelled[key] = a["start"] + a["cancelled_after"]
    outcomes, step = Outcomes(), 0
    while engine.has_work or any(start >= step for start in arrivals):
        for request in arrivals.get(step, ()):
            engine.submit(0, request)
        for key in [key for key, when in cancelled.items() if when == step]:
            outcomes.gather([engine.cancel_by_id(f"request {key}")])
        outcomes.gather(engine.step())
        assert_holders_are_right(engine)
        step += 1
        now_s[0] += 1.0
        assert step < 2000, "a request is starved"
    for request in chain(*arrivals.values()):
        full = expected(request.prompt().tolist(), request.max_tokens)
        got, reason = outcomes.token_ids[request.key], outcomes.reasons[request.key]
        assert got == full[: len(got)]
        if reason == "cancelled":
            assert request.key in cancelled
        elif reason == "deadline":
            assert request.deadline_s < math.inf
        else:
            assert got == full
            assert reason == ("stop" if full[-1] == EOS else "length")
    assert_clean(engine)


def test_a_deadline_ends_waiting_and_running_requests():
    now_s = [0.0]
    engine = make_engine(num_rows=1, clock=lambda: now_s[0])
    for key in range(2):
        engine.submit(0, submit(key, [20, 30], 40, ignore_eos=True, deadline_s=5.0))
    engine.submit(0, submit(2, [20, 30], 3, ignore_eos=True))
    outcomes = Outcomes()
    for _ in range(4):
        outcomes.gather(engine.step())
    now_s[0] = 6.0
    outcomes.gather(run_until_idle(engine))
    assert outcomes.reasons == {0: "deadline", 1: "deadline", 2: "length"}
    assert (len(outcomes.token_ids[0]), len(outcomes.token_ids[1])) == (4, 0)
    assert_clean(engine)


@pytest.mark.parametrize("fault", ["launch", "tokens"])
def test_a_failing_step_fails_its_requests_and_the_next_ones_run(fault):
    engine = make_engine()
    engine.device.faults = {1: fault}
    outcomes = run_all(engine, {0: [submit(0, [9, 9])], 3: [submit(1, [9, 9], 5)]})
    assert list(outcomes.failures) == [0]
    assert "a fault" in outcomes.failures[0]
    assert outcomes.token_ids[1] == expected([9, 9], 5)
    assert_clean(engine)


def test_a_front_end_that_is_gone_leaves_nothing_behind():
    engine = make_engine(num_rows=2)
    for key in range(5):
        engine.submit(key % 2, submit(key, [9, 9, 9], 40, ignore_eos=True))
    engine.step()
    engine.cancel_all(0)
    engine.cancel(1, 1)
    engine.cancel(1, 3)
    assert not engine.has_work
    assert_clean(engine)


def test_a_request_that_can_never_fit_is_refused():
    engine = make_engine(num_blocks=5, block_size=4)
    with pytest.raises(ValueError, match=r"21 tokens does not fit the engine, .* one of 20"):
        engine.submit(0, submit(0, [9] * 20, 1))
    with pytest.raises(ValueError, match=f"which has room for one of {MAX_MODEL_LEN}"):
        make_engine().submit(0, submit(0, [9] * MAX_MODEL_LEN, 1))
    assert not engine.has_work


@pytest.mark.parametrize(("request_", "message"), [
    (submit(0, [], 4), "has a token in its prompt"),
    (submit(0, [9], 0), "wants one at least"),
    (submit(0, [9], 4, priority=4), "no priority 4"),
], ids=["no prompt", "no tokens", "no such class"])
def test_a_request_that_makes_no_sense_is_refused(request_, message):
    engine = make_engine()
    with pytest.raises(ValueError, match=message):
        engine.submit(0, request_)
    assert not engine.has_work


def test_a_long_prompt_comes_in_chunks_beside_the_tokens_of_others():
    engine = make_engine(max_num_batched_tokens=32, max_prefill_chunk=5)
    run_steps(engine, [submit(0, [9, 10], 20, ignore_eos=True)], 2)
    outcomes = Outcomes()
    engine.submit(0, submit(1, range(8, 31), 1))
    for _ in range(5):
        outcomes.gather(engine.step())
    assert [batch.num_new.tolist() for batch in engine.device.batches[2:]] == [
        [1, 5], [1, 5], [1, 5], [1, 5], [1, 3]]
    assert len(outcomes.token_ids[0]) == 5
    assert outcomes.token_ids[1] == expected(range(8, 31), 1)


def test_a_short_prompt_does_not_wait_for_a_long_one_before_it():
    engine = make_engine(max_num_batched_tokens=16, max_prefill_chunk=8)
    outcomes = Outcomes()
    engine.submit(0, submit(0, range(8, 31), 1))
    engine.submit(0, submit(1, [9, 10, 11], 1))
    outcomes.gather(engine.step())
    assert list(outcomes.reasons) == [1]


def test_a_prompt_that_is_alone_takes_the_whole_budget():
    engine = make_engine(max_num_batched_tokens=16, max_prefill_chunk=5)
    run_steps(engine, [submit(0, range(8, 31), 1)], 2)
    assert [batch.num_new.tolist() for batch in engine.device.batches] == [[16], [7]]


def test_prompts_that_are_measured_share_a_chunk():
    engine = make_engine(num_blocks=44, max_num_batched_tokens=16, max_prefill_chunk=5)
    outcomes = run_all(engine, {0: [
        *(submit(key, range(8 + key, 28), 1, num_prompt_logprobs=0) for key in range(3)),
        submit(3, range(30, 8, -1), 1)]})
    batches = engine.device.batches
    assert max(batch.asked.size for batch in batches) == 5
    assert batches[0].num_new.tolist() == [5, 5]
    assert set(outcomes.reasons) == set(range(4))


def test_a_measured_prompt_that_is_alone_comes_in_chunks():
    engine = make_engine(max_num_batched_tokens=16, max_prefill_chunk=5)
    run_all(engine, {0: [submit(0, range(8, 20), 1, num_prompt_logprobs=0)]})
    assert [batch.num_new.tolist() for batch in engine.device.batches] == [[5], [5], [2]]


def test_who_arrived_last_gives_way_when_blocks_run_out_and_keeps_its_tokens():
    engine = make_engine(num_blocks=8, block_size=4)
    requests = [submit(key, [9 + key] * 7, 14, ignore_eos=True) for key in range(2)]
    outcomes, order = Outcomes(), []
    for request in requests:
        engine.submit(0, request)
    while engine.has_work:
        known = set(outcomes.reasons)
        outcomes.gather(engine.step())
        order += sorted(set(outcomes.reasons) - known)
    assert engine.stats().num_preemptions == 1
    assert order == [0, 1]
    for request in requests:
        assert outcomes.token_ids[request.key] == expected(request.prompt(), 14, ignore_eos=True)
    assert_clean(engine)


def test_nobody_is_let_in_to_be_thrown_out_again():
    engine = make_engine(num_blocks=8, block_size=4)
    for key in range(2):
        engine.submit(0, submit(key, [9 + key] * 15, 16, ignore_eos=True))
    engine.step()
    assert engine.stats().num_waiting == 1
    run_until_idle(engine)
    assert engine.stats().num_preemptions == 0


def test_the_lowest_class_gives_way_when_blocks_run_out():
    engine = make_engine(num_blocks=8, block_size=4)
    requests = [submit(key, [9 + key] * 7, 14, ignore_eos=True, priority=3 - key)
                for key in range(2)]
    for request in requests:
        engine.submit(0, request)
    outcomes = Outcomes()
    while not outcomes.reasons:
        outcomes.gather(engine.step())
    assert engine.stats().num_preemptions == 1
    assert list(outcomes.reasons) == [1]


def test_stats_tell_what_waits_and_what_runs():
    now_s = [0.0]
    engine = make_engine(num_rows=1, clock=lambda: now_s[0])
    engine.submit(0, submit(0, [9] * 5, 5, ignore_eos=True, priority=1))
    engine.step()
    for key, priority in enumerate((1, 2, 2, 3), start=1):
        now_s[0] += 1.0
        engine.submit(0, submit(key, [9] * 5, 5, priority=priority))
    now_s[0] = 6.0
    stats = engine.stats()
    assert (stats.num_running, stats.num_waiting) == (1, 4)
    assert stats.num_waiting_by_priority == (0, 1, 2, 1)
    assert stats.oldest_wait_s == 5.0
    assert (stats.num_batch_requests, stats.num_batch_tokens) == (1, 5)
    assert decode_to_front_end(encode(stats)) == stats
    engine.step()
    assert (engine.stats().num_batch_requests, engine.stats().num_batch_tokens) == (1, 1)
    run_until_idle(engine)
    engine.step()
    stats = engine.stats()
    assert (stats.oldest_wait_s, stats.num_batch_requests, stats.num_batch_tokens) == (0, 0, 0)


def run_steps(engine, requests, num_steps):
    for request in requests:
        engine.submit(0, request)
    return [news for _ in range(num_steps) for news in engine.step()]
