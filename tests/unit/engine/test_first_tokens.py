"""What the engine says of a request with its first token."""

from __future__ import annotations

import numpy as np
import pytest
from arithmetic import EOS, make_engine
from drive import submit

PROMPT = [token_id for token_id in range(1, 12) if token_id != EOS]


def told(engine, clock):
    """(keys, times of admission, cached tokens, time) of every message with starts."""
    starts = []
    while engine.has_work:
        clock[0] += 1.0
        for news in engine.step():
            starts += [(*map(np.ndarray.tolist, message.starts.arrays()), message.at_s)
                       for _, message in news.by_owner() if message.starts]
    return starts


@pytest.mark.parametrize("depth", [0, 1])
def test_a_request_is_told_of_once_with_its_first_token(depth):
    clock = [0.0]
    engine = make_engine(clock=lambda: clock[0], depth=depth)
    engine.submit(0, submit(5, PROMPT, 3))
    engine.submit(1, submit(6, PROMPT[::-1], 3))
    first, second = sorted(told(engine, clock))
    assert (first[:3], second[:3]) == (([5], [1.0], [0]), ([6], [1.0], [0]))
    assert first[3] >= 1.0


def test_what_was_in_the_prefix_cache_is_told_of():
    clock = [0.0]
    engine = make_engine(clock=lambda: clock[0])
    engine.submit(0, submit(1, PROMPT, 1))
    told(engine, clock)
    engine.submit(0, submit(2, PROMPT, 1))
    clock[0] = 20.0
    assert told(engine, clock) == [([2], [21.0], [8], 21.0)]


def test_a_request_that_waits_is_admitted_later():
    clock = [0.0]
    engine = make_engine(num_rows=1, clock=lambda: clock[0])
    for key in (1, 2):
        engine.submit(0, submit(key, PROMPT, 2, ignore_eos=True))
    [(_, [first_s], _, _), (_, [second_s], _, _)] = told(engine, clock)
    assert second_s > first_s


def test_steps_are_counted_by_their_size():
    engine = make_engine()
    for key in (1, 2, 3):
        engine.submit(0, submit(key, PROMPT[:3], 2, ignore_eos=True))
    while engine.has_work:
        engine.step()
    stats = engine.stats()
    assert sum(stats.num_steps_by_size[:3]) == sum(stats.num_steps_by_size) == 2
    assert (stats.num_steps_by_size[2], stats.num_step_requests) == (2, 6)
