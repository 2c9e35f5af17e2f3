"""What may wait for the engine, and when it is said to be worth another try."""

from __future__ import annotations

from concurrent.futures import Future

import numpy as np
import pytest

from tritonlm.config import ModelConfig
from tritonlm.engine.backlog import Backlog, QueueFull
from tritonlm.engine.blocks import BlockPool
from tritonlm.engine.messages import Submit
from tritonlm.engine.queue import WaitingQueue
from tritonlm.engine.scheduler import Scheduler
from tritonlm.engine.table import RequestTable
from tritonlm.engine.users import Users

NUM_ROWS = 4
PROMPT = np.arange(10, dtype=np.int32).tobytes()


def build(grammars=None, **settings):
    config = ModelConfig(max_num_seqs=NUM_ROWS, **settings)
    table = RequestTable(NUM_ROWS, 100, config.block_size, np.zeros(0, np.int32))
    return Scheduler(table, BlockPool(100), config, grammars)


def submit(scheduler, first, number, now_s=0.0, guide=None):
    for key in range(first, first + number):
        scheduler.submit(0, Submit(key, "", PROMPT, max_tokens=5, guide=guide), now_s)


def step(scheduler, now_s):
    batch = scheduler.schedule(now_s)
    scheduler.advance(batch)
    scheduler.commit(batch, np.zeros(batch.sampled.size, np.int32), now_s)


def test_free_rows_count_as_room():
    scheduler = build(max_waiting_requests=3)
    submit(scheduler, 0, NUM_ROWS + 3)
    with pytest.raises(QueueFull, match="the most that max_waiting_requests allows"):
        submit(scheduler, 100, 1)


def test_rows_that_are_taken_do_not():
    scheduler = build(max_waiting_requests=3)
    submit(scheduler, 0, NUM_ROWS)
    step(scheduler, 0.0)
    submit(scheduler, 10, 3)
    with pytest.raises(QueueFull, match=r"^3 requests wait"):
        submit(scheduler, 100, 1)


def test_prompts_are_bounded_in_tokens():
    scheduler = build(max_waiting_tokens=25)
    submit(scheduler, 0, NUM_ROWS)
    step(scheduler, 0.0)
    submit(scheduler, 10, 2)
    with pytest.raises(QueueFull, match=r"20 tokens wait.* max_waiting_tokens allows, 25"):
        submit(scheduler, 100, 1)


def test_a_prompt_beyond_the_bound_may_wait_alone():
    scheduler = build(max_waiting_tokens=5)
    submit(scheduler, 0, NUM_ROWS)
    step(scheduler, 0.0)
    submit(scheduler, 10, 1)
    with pytest.raises(QueueFull):
        submit(scheduler, 11, 1)


class SlowGrammars:
    """None of them is ever compiled."""

    def compile(self, _guide):
        return Future()


def test_who_waits_for_a_grammar_counts():
    scheduler = build(SlowGrammars(), max_waiting_requests=3, max_waiting_tokens=75)
    submit(scheduler, 0, NUM_ROWS + 3, guide=("guided_regex", "a"))
    assert scheduler.stats(1.0).num_waiting == NUM_ROWS + 3
    with pytest.raises(QueueFull, match=r"^7 requests wait"):
        submit(scheduler, 100, 1)
    scheduler.end(scheduler.requests[0, 0], 1.0)
    with pytest.raises(QueueFull, match="prompts of 60 tokens wait"):
        scheduler.submit(0, Submit(100, "", 2 * PROMPT, max_tokens=5), 1.0)
    assert scheduler.schedule(1.0) is None
    for request in [*scheduler.requests.values()]:
        scheduler.end(request, 1.0)
    assert scheduler.stats(1.0).num_waiting == 0


def test_who_waits_for_a_grammar_keeps_nobody_else_from_idle_rows():
    scheduler = build(SlowGrammars(), max_waiting_requests=1)
    submit(scheduler, 0, 3, guide=("guided_regex", "a"))
    assert scheduler.schedule(0.0) is None
    submit(scheduler, 10, 2)
    with pytest.raises(QueueFull):
        submit(scheduler, 20, 1)
    step(scheduler, 0.0)
    assert scheduler.stats(0.0).num_running == 2


def test_who_is_refused_leaves_no_trace():
    scheduler = build(max_waiting_requests=1)
    submit(scheduler, 0, NUM_ROWS + 1)
    for key in range(100, 110):
        with pytest.raises(QueueFull):
            submit(scheduler, key, 1)
    assert len(scheduler.requests) == NUM_ROWS + 1
    for now_s in range(40):
        if scheduler.has_work:
            step(scheduler, float(now_s))
    assert not scheduler.has_work
    assert scheduler.schedule(50.0) is None
    submit(scheduler, 200, NUM_ROWS + 1)


@pytest.mark.parametrize(("num_left", "hint"), [(0, 60), (1, 40), (10, 4), (1000, 1)])
def test_the_hint_follows_from_how_fast_requests_are_let_in(num_left, hint):
    config = ModelConfig(max_waiting_requests=20)
    queue = WaitingQueue(Users(), 10.0)
    backlog = Backlog(queue, config)
    scheduler = build()
    submit(scheduler, 0, 20)
    for request in scheduler.requests.values():
        queue.enter(request, 0.0)
    backlog.observe(0, 0.0)
    queue.num_left += num_left
    backlog.observe(0, 2.0)
    backlog.observe(0, 2.5)  # too early to say something else
    with pytest.raises(QueueFull, match=f"; retry in {hint} s$"):
        backlog.check_room(Submit(1, "", PROMPT, max_tokens=5))


def test_the_hint_of_a_first_crowd_is_the_shortest():
    scheduler = build(max_waiting_requests=1)
    submit(scheduler, 0, NUM_ROWS + 1)
    with pytest.raises(QueueFull, match=r"; retry in 1 s$"):
        submit(scheduler, 100, 1)
