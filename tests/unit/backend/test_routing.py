"""Which engine a prompt goes to."""

from __future__ import annotations

import numpy as np
import pytest

from tritonlm.backend import routing
from tritonlm.backend.routing import Load, Router

BLOCK_SIZE = 4


def prompt(*token_ids):
    return np.array(token_ids, np.int32).tobytes()


LONG = prompt(*range(32))


@pytest.fixture
def router():
    return OwnLoads(BLOCK_SIZE)


class OwnLoads(Router):
    """Of which nothing but this front end's own requests is known."""

    def choose(self, prompt, loads):
        return super().choose(prompt, {engine: Load(num, 0) for engine, num in loads.items()})


def test_requests_of_others_decide_among_equals():
    loads = {0: Load(1, 9), 1: Load(1, 3), 2: Load(2, 2)}
    assert Router(BLOCK_SIZE).choose(LONG, loads) == 1


def test_equals_are_chosen_by_chance():
    """Else the first requests of all front ends would go to the same engine."""
    router = Router(BLOCK_SIZE)
    chosen = {router.choose(prompt(n), {0: Load(0, 0), 1: Load(0, 0)}) for n in range(64)}
    assert chosen == {0, 1}


def test_an_unknown_prompt_goes_to_the_least_busy_engine(router):
    assert router.choose(LONG, {0: 3, 1: 2, 2: 9}) == 1


def test_a_prompt_goes_to_the_engine_that_knows_its_beginning(router):
    assert router.choose(LONG, {0: 1, 1: 0}) == 1
    assert router.choose(LONG, {0: 0, 1: 2}) == 1
    assert router.choose(prompt(*range(9)), {0: 0, 1: 2}) == 1, "two blocks are enough"
    assert router.choose(prompt(*range(10, 20)), {0: 0, 1: 3}) == 0


def test_a_beginning_that_is_no_whole_block_counts_for_nothing(router):
    router.choose(prompt(1, 2, 3), {0: 1, 1: 0})
    assert router.choose(prompt(1, 2, 3), {0: 0, 1: 3}) == 0


def test_the_longest_known_beginning_decides(router):
    router.choose(LONG, {0: 0, 1: 9})
    router.choose(prompt(*range(8), *range(50, 74)), {0: 9, 1: 0})
    assert router.choose(LONG, {0: 2, 1: 0}) == 0
    assert router.choose(prompt(*range(8), *range(50, 74)), {0: 0, 1: 2}) == 1


@pytest.mark.parametrize(("others", "mine", "chosen"), [(0, 2, 1), (0, 3, 0), (40, 52, 1),
                                                        (40, 53, 0)])
def test_an_engine_that_is_notably_busier_is_passed_over(router, others, mine, chosen):
    router.choose(LONG, {0: 1, 1: 0})
    assert router.choose(LONG, {0: others, 1: mine}) == chosen


def test_an_engine_that_is_not_ready_is_passed_over(router):
    router.choose(LONG, {0: 1, 1: 0})
    assert router.choose(LONG, {0: 5, 2: 6}) == 0
    assert router.choose(LONG, {2: 0}) == 2


def test_what_was_not_asked_for_lately_is_forgotten(router, monkeypatch):
    monkeypatch.setattr(routing, "MAX_KNOWN_PREFIXES", 4)
    router.choose(LONG, {0: 1, 1: 0})
    for first in range(100, 104):
        router.choose(prompt(*range(first, first + 4)), {0: 0, 1: 1})
    assert router.choose(LONG, {0: 0, 1: 2}) == 0
