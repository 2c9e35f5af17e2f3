"""Log probabilities of prompts and outputs against transformers' own logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from drive import run_all, submit
from small_engine import FEW_BLOCKS_GIB, engine_of, launched_ahead, prompts
from tests.checkpoints import save_random_model
from transformers import AutoModelForCausalLM

MAX_TOKENS = 12


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_random_model(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def log_softmax(checkpoint):
    model = AutoModelForCausalLM.from_pretrained(checkpoint)

    def of(ids):
        """What comes after each of `ids`, [n, V]."""
        with torch.inference_mode():
            return model(torch.tensor([ids])).logits[0].log_softmax(-1)

    return of


def assert_measured(log_softmax, ids, entries, positions, least_alternatives):
    """The tokens of `ids` at `positions`, and no others, are measured right."""
    expected = log_softmax(ids)
    assert sorted(entries) == list(positions)
    for position, (token_ids, values) in entries.items():
        row = expected[position - 1]
        assert token_ids[0] == ids[position]
        torch.testing.assert_close(torch.tensor(values), row[token_ids], atol=1e-4, rtol=1e-4)
        best = row.topk(len(token_ids) - 1).values
        torch.testing.assert_close(row[token_ids[1:]], best, atol=1e-4, rtol=1e-4)
        assert len(token_ids) - 1 >= least_alternatives


def mixed_requests(max_tokens=MAX_TOKENS):
    """Some that ask for nothing, for either, and for both; with options that change logits."""
    return [submit(key, prompt, max_tokens, num_logprobs=[-1, 0, 3, 20][key % 4],
                   num_prompt_logprobs=[-1, 5, 0][key % 3], temperature=key % 2 * 1.0, seed=key,
                   repetition_penalty=1.0 + key % 2, banned=((5,),), logit_bias=((9, 30.0),))
            for key, prompt in enumerate(prompts(13, seed=3))]


def assert_all_measured(log_softmax, requests, outcomes):
    for request in requests:
        ids = [*request.prompt().tolist(), *outcomes.token_ids[request.key]]
        num_prompt = request.num_prompt_tokens
        entries = outcomes.logprobs[request.key]
        prompt_positions = range(1, num_prompt) if request.num_prompt_logprobs >= 0 else ()
        output_positions = range(num_prompt, len(ids)) if request.num_logprobs >= 0 else ()
        for positions, count in ((prompt_positions, request.num_prompt_logprobs),
                                 (output_positions, request.num_logprobs)):
            assert_measured(log_softmax, ids, {p: entries.pop(p) for p in positions}, positions,
                            max(count, 0))
        assert not entries, "more than was asked for"


@pytest.mark.parametrize("is_ahead", [False, True])
def test_what_is_asked_for_equals_transformers_in_any_company(checkpoint, log_softmax, is_ahead):
    engine = engine_of(checkpoint, max_num_batched_tokens=64)
    engine = launched_ahead(engine) if is_ahead else engine
    requests = mixed_requests()
    outcomes = run_all(engine, {2 * key: [request] for key, request in enumerate(requests)})
    assert_all_measured(log_softmax, requests, outcomes)


def test_preempted_requests_are_measured_as_ever(checkpoint, log_softmax):
    engine = engine_of(checkpoint, kv_cache_gib=FEW_BLOCKS_GIB)
    requests = mixed_requests(max_tokens=60)
    outcomes = run_all(engine, {0: requests})
    assert engine.stats().num_preemptions > 0
    assert_all_measured(log_softmax, requests, outcomes)


def test_a_prompt_in_the_prefix_cache_is_measured_all_the_same(checkpoint, log_softmax):
    engine = engine_of(checkpoint)
    prompt = np.arange(3, 80).tolist()
    run_all(engine, {0: [submit(0, prompt, 2)]})
    again = submit(1, prompt, 2, num_prompt_logprobs=1)
    assert_all_measured(log_softmax, [again], run_all(engine, {0: [again]}))
