"""The engine against `transformers.generate`."""

from __future__ import annotations

import pytest
import torch
from drive import run_all, submit
from small_engine import FEW_BLOCKS_GIB, engine_of, launched_ahead, prompts
from tests.checkpoints import save_random_model
from transformers import AutoModelForCausalLM

MAX_TOKENS = 24


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_random_model(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def reference(checkpoint):
    model = AutoModelForCausalLM.from_pretrained(checkpoint)

    def generate(prompt, max_tokens=MAX_TOKENS):
        prompt = torch.tensor([prompt])
        out = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False,
                             max_new_tokens=max_tokens, pad_token_id=2)
        return out[0, prompt.shape[1]:].tolist()

    return generate


def assert_idle_and_clean(engine):
    stats = engine.stats()
    assert (stats.num_running, stats.num_waiting, stats.num_blocks_used) == (0, 0, 0)


def test_greedy_output_alone_equals_generate(checkpoint, reference):
    engine = engine_of(checkpoint)
    for prompt in prompts(6):
        outcomes = run_all(engine, {0: [submit(0, prompt, MAX_TOKENS)]})
        assert outcomes.token_ids[0] == reference(prompt)
    assert_idle_and_clean(engine)


@pytest.mark.parametrize("block_size", [1, 16, 64])
def test_greedy_output_with_others_that_join_and_leave_equals_generate(
    checkpoint, reference, block_size
):
    engine = engine_of(checkpoint, block_size=block_size)
    requests = [submit(key, prompt, MAX_TOKENS - key) for key, prompt in enumerate(prompts(17))]
    arrivals = {3 * key: [request] for key, request in enumerate(requests[:8])} | {5: requests[8:]}
    outcomes = run_all(engine, arrivals)
    for request in requests:
        expected = reference(request.prompt().tolist(), request.max_tokens)
        assert outcomes.token_ids[request.key] == expected
    assert_idle_and_clean(engine)


def test_preempted_requests_come_out_the_same(checkpoint, reference):
    engine = engine_of(checkpoint, kv_cache_gib=FEW_BLOCKS_GIB)
    requests = [submit(key, prompt, 60) for key, prompt in enumerate(prompts(12, seed=1))]
    outcomes = run_all(engine, {0: requests})
    assert engine.stats().num_preemptions > 0
    for request in requests:
        assert outcomes.token_ids[request.key] == reference(request.prompt().tolist(), 60)
    assert_idle_and_clean(engine)


def test_prompts_found_in_the_prefix_cache_come_out_the_same(checkpoint, reference):
    engine = engine_of(checkpoint)
    shared = prompts(1)[0] * 2
    first = submit(0, shared, MAX_TOKENS)
    answer = run_all(engine, {0: [first]}).token_ids[0]
    assert answer == reference(shared)
    tails = [[], [5], prompts(1, seed=2)[0], [*answer, 9, 8, 7]]
    requests = [submit(key, shared + tail, MAX_TOKENS) for key, tail in enumerate(tails, start=1)]
    outcomes = run_all(engine, {0: requests})
    for request in requests:
        assert outcomes.token_ids[request.key] == reference(request.prompt().tolist())
    assert engine.stats().num_prefix_tokens_hit >= len(tails) * (len(shared) // 16 * 16)
    assert_idle_and_clean(engine)


def test_steps_launched_ahead_come_out_the_same(checkpoint, reference):
    engine = engine_of(checkpoint)
    ahead = launched_ahead(engine)
    requests = [submit(key, prompt, MAX_TOKENS - key, temperature=key % 2 * 1.0, seed=key)
                for key, prompt in enumerate(prompts(8))]
    arrivals = {2 * key: [request] for key, request in enumerate(requests)}
    expected, outcomes = run_all(engine, arrivals), run_all(ahead, arrivals)
    assert outcomes.token_ids == expected.token_ids
    for request in requests[::2]:
        assert outcomes.token_ids[request.key] == reference(
            request.prompt().tolist(), request.max_tokens)
    assert_idle_and_clean(ahead)


def test_a_prompt_longer_than_the_token_budget_comes_in_chunks(checkpoint, reference):
    engine = engine_of(checkpoint, max_num_seqs=4, max_num_batched_tokens=8)
    prompt = prompts(1)[0] * 3
    outcomes = run_all(engine, {0: [submit(0, prompt, 5), submit(1, prompt[:3], 20)]})
    assert outcomes.token_ids[0] == reference(prompt, 5)
    assert outcomes.token_ids[1] == reference(prompt[:3], 20)


def test_reasons_are_true(checkpoint, reference):
    prompt = prompts(1)[0]
    expected = reference(prompt)
    requests = [submit(0, prompt, 4), submit(1, prompt, 24, stop_token_ids=(expected[6],))]
    outcomes = run_all(engine_of(checkpoint), {0: requests})
    assert outcomes.reasons == {0: "length", 1: "stop"}
    assert outcomes.token_ids[1] == expected[: expected.index(expected[6]) + 1]
