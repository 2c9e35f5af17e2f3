"""How many users ask when, for what, and how their clients behave."""

from __future__ import annotations

import dataclasses
from collections import Counter
from random import Random

import pytest
from loadtests.mix import Mix
from loadtests.settings import Settings
from loadtests.shapes import SHAPES
from loadtests.users.conduct import Behaviour, HungUp

from tritonlm.errors import InvalidArgument

SETTINGS = Settings()


def behaviour(**values):
    return Behaviour(dataclasses.replace(SETTINGS, **values), Random(1))


@pytest.mark.parametrize(("shape", "users"), [
    ("constant", [20, 20, 20, 20, 20, 20, 20, 20, 20, 20]),
    ("step", [5, 5, 10, 10, 10, 15, 15, 20, 20, 20]),
    ("spike", [4, 4, 4, 4, 20, 20, 4, 4, 4, 4]),
    ("soak", [10, 20, 20, 20, 20, 20, 20, 20, 20, 20])])
def test_shapes_over_their_time(shape, users):
    parts = [part / 10 + 0.05 for part in range(10)]
    assert [SHAPES[shape](part, 20) for part in parts] == users
    assert SHAPES[shape](0.0, 1) == 1, "somebody is always there"


def test_a_mix_draws_by_its_weights():
    mix, random = Mix.parse("prompt_words", "8:3, 64"), Random(0)
    drawn = Counter(mix.draw(random) for _ in range(4000))
    assert drawn["8"] / 4000 == pytest.approx(0.75, abs=0.03)
    assert set(drawn) == {"8", "64"}


@pytest.mark.parametrize("text", ["", "8:", ":3", "8:0", "8:-1", "8:x", "8,,9"])
def test_a_mix_that_is_none_is_refused(text):
    if text == "8:":
        assert Mix.parse("max_tokens", text).weights == (1,)
    else:
        with pytest.raises(InvalidArgument, match="max_tokens"):
            Mix.parse("max_tokens", text)


@pytest.mark.parametrize("values", [
    {"arrivals": "open"}, {"shape": "round"}, {"rate": 0.0}, {"prompt_words": "0"},
    {"max_tokens": "many"}, {"priorities": "vip:1"}, {"abort_share": 1.5}, {"slow_share": -0.1},
    {"abort_share": 0.6, "slow_share": 0.6}, {"slow_pause_ms": -1.0}, {"slo": "/absent.yaml"}])
def test_settings_out_of_range_are_named(values):
    with pytest.raises(InvalidArgument) as refused:
        dataclasses.replace(SETTINGS, **values)
    assert refused.value.field == next(iter(values))


def test_a_closed_loop_does_not_wait_and_an_open_one_waits_at_random():
    assert behaviour().interval_s() == 0
    open_loop = behaviour(arrivals="poisson", rate=4.0)
    intervals = [open_loop.interval_s() for _ in range(5000)]
    assert sum(intervals) / 5000 == pytest.approx(0.25, rel=0.05)
    assert sum(interval > 0.25 for interval in intervals) / 5000 == pytest.approx(
        0.368, abs=0.02), "of an exponential distribution"


def test_prompts_and_priorities_are_mixed():
    asker = behaviour(prompt_words="3:1,30:1", priorities="low:1,high:1", max_tokens="5")
    conducts = [asker.conduct(is_stream=True) for _ in range(200)]
    assert {len(one.prompt.split()) for one in conducts} == {3, 30}
    assert {one.priority for one in conducts} == {"low", "high"}
    assert {one.max_tokens for one in conducts} == {5}
    assert len({one.prompt for one in conducts if len(one.prompt.split()) == 30}) > 90


def test_shares_of_streams_are_aborted_or_read_slowly():
    asker = behaviour(abort_share=0.2, slow_share=0.3, slow_pause_ms=20.0)
    conducts = [asker.conduct(is_stream=True) for _ in range(3000)]
    assert sum(one.hang_up_after > 0 for one in conducts) / 3000 == pytest.approx(0.2, abs=0.03)
    assert sum(one.pause_s == 0.02 for one in conducts) / 3000 == pytest.approx(0.3, abs=0.03)
    assert not any(one.hang_up_after and one.pause_s for one in conducts)
    whole = [asker.conduct(is_stream=False) for _ in range(50)]
    assert not any(one.hang_up_after or one.pause_s for one in whole)


def test_an_impatient_client_hangs_up_after_its_chunks():
    conduct = dataclasses.replace(behaviour().conduct(is_stream=True), hang_up_after=2)
    conduct.chunk(1)
    with pytest.raises(HungUp):
        conduct.chunk(2)
    assert len(conduct.seen().chunks_s) == 2
