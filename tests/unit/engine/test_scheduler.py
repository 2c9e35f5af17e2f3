"""The scheduler and the engine's bookkeeping, with a model that is arithmetic."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
from drive import Outcomes, run_all, submit
from hypothesis import given, settings
from hypothesis import strategies as st

from tritonlm.engine.blocks import BlockPool
from tritonlm.engine.engine import Engine
from tritonlm.engine.scheduler import Scheduler
from tritonlm.engine.table import RequestTable

MAX_MODEL_LEN = 48
EOS = 7


class ArithmeticModel:
    """Each next token follows from all tokens before it, read back from the paged cache."""

    def __init__(self, table, num_blocks, block_size):
        self.table, self.block_size = table, block_size
        self.cache = np.full(num_blocks * block_size, -1, np.int64)

    def __call__(self, batch):
        assert len(set(batch.slots.tolist())) == batch.slots.size, "two tokens share a slot"
        assert (batch.num_new[: batch.num_decodes] == 1).all()
        self.cache[batch.slots] = batch.token_ids
        tokens = []
        for index in batch.sampled.tolist():
            places = np.arange(batch.context_lens[index])
            blocks = batch.block_tables[index, places // self.block_size]
            tokens.append(next_token(self.cache[blocks * self.block_size
                                                + places % self.block_size]))
        return np.array(tokens, np.int32)


def next_token(context):
    return int((context * np.arange(1, context.size + 1)).sum() % 101)


def expected(prompt, max_tokens):
    context, out = list(prompt), []
    while len(out) < max_tokens:
        out.append(next_token(np.array(context + out)))
        if out[-1] == EOS:
            break
    return out


def make_engine(num_rows=4, num_blocks=24, block_size=4, budget=16, clock=lambda: 0.0):
    table = RequestTable(num_rows, MAX_MODEL_LEN, block_size, np.array([EOS], np.int32))
    scheduler = Scheduler(table, BlockPool(num_blocks), budget)
    return Engine(scheduler, ArithmeticModel(table, num_blocks, block_size), clock)


def assert_clean(engine):
    stats = engine.stats()
    assert (stats.num_running, stats.num_waiting, stats.num_blocks_used) == (0, 0, 0)
    table = engine.scheduler.table
    assert sorted(table._free_rows) == list(range(table.num_blocks.size))


requests = st.lists(
    st.tuples(st.integers(0, 12), st.integers(1, 30), st.integers(1, 18), st.booleans()),
    min_size=1, max_size=24)


@settings(max_examples=150, deadline=None)
@given(requests, st.sampled_from([(12, 4), (6, 8), (48, 1), (40, 4)]), st.integers(1, 6),
       st.integers(0, 2**31))
def test_every_request_ends_once_with_what_it_gets_alone(arriving, cache, num_rows, seed):
    random = np.random.default_rng(seed)
    num_blocks, block_size = cache
    engine = make_engine(num_rows, num_blocks, block_size, budget=max(num_rows, 10))
    arrivals, cancelled = {}, {}
    for key, (start, num_prompt, max_tokens, is_cancelled) in enumerate(arriving):
        request = submit(key, random.integers(8, 100, num_prompt).tolist(), max_tokens)
        arrivals.setdefault(start, []).append(request)
        if is_cancelled:
            cancelled[key] = start + int(random.integers(0, 20))
    outcomes, step = Outcomes(), 0
    while engine.has_work or any(start >= step for start in arrivals):
        for request in arrivals.get(step, ()):
            engine.submit(0, request)
        for key in [key for key, when in cancelled.items() if when == step]:
            outcomes.gather([engine.cancel_by_id(f"request {key}")])
        outcomes.gather(engine.step())
        step += 1
        assert step < 5000
    for request in chain(*arrivals.values()):
        full = expected(request.prompt().tolist(), request.max_tokens)
        got = outcomes.token_ids[request.key]
        reason = outcomes.reasons[request.key]
        assert got == full[: len(got)]
        if reason != "cancelled":
            assert got == full
            assert reason == ("stop" if full[-1] == EOS else "length")
        else:
            assert request.key in cancelled
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
    outcomes.gather(run_all_steps(engine))
    assert outcomes.reasons == {0: "deadline", 1: "deadline", 2: "length"}
    assert (len(outcomes.token_ids[0]), len(outcomes.token_ids[1])) == (4, 0)
    assert_clean(engine)


def run_all_steps(engine):
    news = []
    while engine.has_work:
        news += engine.step()
    return news


def test_a_failing_step_fails_its_requests_and_the_next_ones_run():
    engine = make_engine()
    model = engine._run
    engine._run = lambda batch: (_ for _ in ()).throw(RuntimeError("a fault"))
    outcomes = run_all(engine, {0: [submit(0, [9, 9])]})
    assert outcomes.failures == {0: "a fault"}
    assert_clean(engine)
    engine._run = model
    outcomes = run_all(engine, {0: [submit(1, [9, 9], 5)]})
    assert outcomes.token_ids[1] == expected([9, 9], 5)


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
    with pytest.raises(ValueError, match="21 tokens does not fit"):
        engine.submit(0, submit(0, [9] * 20, 1))
    with pytest.raises(ValueError, match="does not fit"):
        make_engine().submit(0, submit(0, [9] * MAX_MODEL_LEN, 1))
