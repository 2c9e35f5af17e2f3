"""Whose news are sent, and when."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from tritonlm.backend.outbox import Outbox
from tritonlm.backend.time_budget import TimeBudget
from tritonlm.engine.messages import Starts, Tokens

LENGTH = 2


class Stream:
    """A generation of one sequence."""

    def __init__(self, key, sent_s=0.0):
        self.keys, self.sent_s = range(key, key + 1), sent_s
        self.answer = SimpleNamespace(budget=TimeBudget(received_s=0.0))
        self.tokens = []
        self.is_over = False

    def take(self, key, token_id, reason):
        self.tokens.append(token_id)
        self.is_over = bool(reason)


@pytest.fixture
def clock():
    return SimpleNamespace(now_s=100.0)


@pytest.fixture
def outbox(clock):
    return Outbox(0.05, lambda: clock.now_s)


def tokens(*news, at_s=0.0, starts=None):
    """News are (key, token id, reason)."""
    keys, token_ids, reasons = zip(*news, strict=True)
    return Tokens(np.array(keys, np.int64).tobytes(), np.array(token_ids, np.int32).tobytes(),
                  np.array(reasons, np.uint8).tobytes(), at_s=at_s, starts=starts)


def test_a_first_response_is_due_at_once_and_the_next_after_the_interval(outbox, clock):
    stream = Stream(1)
    outbox.take(tokens((1, 5, 0)), {1: stream})
    assert outbox.take_due(9) == [stream]
    stream.sent_s = clock.now_s
    outbox.take(tokens((1, 6, 0)), {1: stream})
    assert outbox.take_due(9) == []
    assert outbox.due_s == pytest.approx(100.05)
    outbox.take(tokens((1, 7, 0)), {1: stream})
    clock.now_s = outbox.due_s
    assert outbox.take_due(9) == [stream]
    assert (outbox.take_due(9), outbox.due_s) == ([], math.inf)
    assert stream.tokens == [5, 6, 7]


def test_an_end_does_not_wait(outbox, clock):
    stream = Stream(1, sent_s=clock.now_s)
    outbox.take(tokens((1, 5, LENGTH)), {1: stream})
    assert outbox.take_due(9) == [stream]


def test_first_responses_go_first_and_then_whoever_waits_longest(outbox):
    streams = {key: Stream(key, sent_s=key % 2) for key in range(1, 6)}
    outbox.take(tokens(*((key, 5, 0) for key in (5, 1, 2))), streams)
    outbox.take(tokens(*((key, 5, 0) for key in (3, 4, 1))), streams)
    assert [[stream.keys.start for stream in outbox.take_due(2)] for _ in range(3)] == [
        [2, 4], [5, 1], [3]]


def test_what_is_over_is_not_sent(outbox):
    stream = Stream(1)
    outbox.take(tokens((1, 5, 0), (2, 5, 0)), {1: stream})
    outbox.discard(stream)
    assert outbox.take_due(9) == []


def test_a_request_learns_when_it_was_admitted(outbox):
    stream = Stream(1)
    starts = Starts(np.array([1, 2], np.int64).tobytes(), np.array([1.5, 1.6]).tobytes(),
                    np.array([16, 0], np.int32).tobytes())
    outbox.take(tokens((1, 5, 0), (2, 5, 0), at_s=2.0, starts=starts), {1: stream})
    outbox.take(tokens((1, 5, 0), at_s=3.0), {1: stream})
    budget = stream.answer.budget
    assert (budget.queue_s, budget.first_token_s, budget.last_token_s) == (1.5, 2.0, 3.0)
    assert budget.num_cached_tokens == 16
