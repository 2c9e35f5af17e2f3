"""The prompts of a load."""

from __future__ import annotations

import dataclasses
import math

import pytest

from tritonlm.bench.asks import Ask, measured, warm_ups
from tritonlm.bench.load import Load
from tritonlm.errors import InvalidArgument

LOAD = Load(num_prompts=7, input_len=20, output_len=10, num_warmups=0)


def with_prompts(tmp_path, text, **values):
    path = tmp_path / "prompts.jsonl"
    path.write_text(text)
    return dataclasses.replace(LOAD, prompts=str(path), **values)


def test_processes_share_one_load_whatever_their_number():
    alone = measured(LOAD)
    shares = [measured(dataclasses.replace(LOAD, place=place, num_processes=3))
              for place in range(3)]
    assert [len(share) for share in shares] == [3, 2, 2]
    assert sorted(ask.prompt for share in shares for ask in share) == sorted(
        ask.prompt for ask in alone)


def test_warm_ups_are_other_prompts():
    load = dataclasses.replace(LOAD, num_warmups=4)
    assert len(warm_ups(load)) == 4
    assert {ask.prompt for ask in warm_ups(load)}.isdisjoint(ask.prompt for ask in measured(load))
    assert warm_ups(LOAD) == []


def test_lengths_keep_within_their_range():
    asks = measured(dataclasses.replace(LOAD, num_prompts=300, range_ratio=0.5))
    assert {len(ask.prompt) for ask in asks} == set(range(10, 31))
    assert {ask.max_tokens for ask in asks} == set(range(5, 16))
    assert {(len(ask.prompt), ask.max_tokens) for ask in measured(LOAD)} == {(20, 10)}


def test_ids_are_below_the_vocabulary_and_follow_from_the_seed():
    load = dataclasses.replace(LOAD, vocab_size=5)
    assert {token for ask in measured(load) for token in ask.prompt} == set(range(5))
    assert measured(load) == measured(load)
    assert measured(load) != measured(dataclasses.replace(load, seed=1))


@pytest.mark.parametrize("values", [
    {"vocab_size": 0}, {"backend": "openai-chat"}, {"model": "text_generation"}])
def test_texts_are_cut_by_the_server(values):
    [ask, *_] = measured(dataclasses.replace(LOAD, **values))
    assert isinstance(ask.prompt, str)
    assert len(ask.prompt) > 5 * 20
    assert ask.cut_to == 20


def test_a_prompt_may_have_what_else_ends_a_line(tmp_path):
    load = with_prompts(tmp_path, '{"prompt": "a\u2028b\u0085c"}\n')
    assert measured(load)[0].prompt == "a\u2028b\u0085c"


def test_a_file_is_read_over_and_over(tmp_path):
    load = with_prompts(tmp_path, '{"prompt": "a"}\n\n{"prompt": "b", "max_tokens": 3}\n')
    assert measured(load)[:3] == [Ask("a", 10), Ask("b", 3), Ask("a", 10)]
    assert len(measured(load)) == 7


@pytest.mark.parametrize(("text", "named"), [
    ("", "prompts"), ("[1]", ":1"), ('{"prompt": "a"}\n{"prompt": "b", "x": 1}', ":2"),
    ('{"prompt": ""}', ":1: prompt"), ('{"prompt": "a", "max_tokens": 0}', "max_tokens"),
    ("{", ":1")])
def test_a_line_that_is_no_prompt_is_named(tmp_path, text, named):
    with pytest.raises(InvalidArgument) as refused:
        measured(with_prompts(tmp_path, text))
    assert named in refused.value.field or named in refused.value.message


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InvalidArgument, match=r"absent\.jsonl"):
        measured(dataclasses.replace(LOAD, prompts=str(tmp_path / "absent.jsonl")))


@pytest.mark.parametrize("values", [
    {"backend": "http"}, {"url": "localhost"}, {"request_rate": 0.0}, {"num_prompts": 0},
    {"max_concurrency": 0}, {"range_ratio": 1.0}, {"burstiness": 0.0},
    {"request_rate": math.inf}, {"request_rate": math.nan}, {"temperature": -1.0}])
def test_values_out_of_range_are_named(values):
    [name] = values
    with pytest.raises(InvalidArgument) as refused:
        dataclasses.replace(LOAD, **values)
    assert refused.value.field == name
