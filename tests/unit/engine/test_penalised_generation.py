"""Requests whose logits are changed against `transformers.generate`, in company and pre-empted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from drive import run_all, submit
from small_engine import FEW_BLOCKS_GIB, engine_of, launched_ahead, prompts
from tests.checkpoints import VOCAB_SIZE, save_random_model
from transformers import AutoModelForCausalLM

MAX_TOKENS = 60


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_random_model(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def reference(checkpoint):
    """Greedy output by transformers under the options of a request."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint)

    def generate(request):
        prompt = torch.tensor([request.prompt().tolist()])
        options = {"min_new_tokens": request.min_tokens, "max_new_tokens": request.max_tokens,
                   "repetition_penalty": request.repetition_penalty, "pad_token_id": 2}
        if request.banned:
            options["bad_words_ids"] = [list(ids) for ids in request.banned]
        if request.logit_bias:
            options["sequence_bias"] = [[[i], bias] for i, bias in request.logit_bias]
        out = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False,
                             **options)
        return out[0, prompt.shape[1]:].tolist()

    return generate


def mixed_requests():
    """Half of them with options; the banned sequences are ones that the model is fond of."""
    random = np.random.default_rng(7)
    for key, prompt in enumerate(prompts(12, seed=1)):
        options = {
            "repetition_penalty": float(random.choice([1.0, 1.2, 1.5])),
            "banned": tuple({tuple(random.integers(3, VOCAB_SIZE, size).tolist())
                             for size in random.integers(1, 3, 60)}),
            "logit_bias": ((int(random.integers(3, VOCAB_SIZE)), 20.0), (1, 15.0)),
            "min_tokens": int(random.integers(0, 40)),
        }
        yield submit(key, prompt, MAX_TOKENS, **(options if key % 2 else {}))


@pytest.mark.parametrize("is_ahead", [False, True])
@pytest.mark.parametrize("settings", [{}, {"kv_cache_gib": FEW_BLOCKS_GIB}], ids=["room", "crowd"])
def test_greedy_output_equals_generate(checkpoint, reference, settings, is_ahead):
    engine = engine_of(checkpoint, **settings)
    engine = launched_ahead(engine) if is_ahead else engine
    requests = list(mixed_requests())
    outcomes = run_all(engine, {3 * key: [request] for key, request in enumerate(requests)})
    assert (engine.stats().num_preemptions > 0) == bool(settings)
    lengths = set()
    for request in requests:
        expected = reference(request)
        assert outcomes.token_ids[request.key] == expected
        lengths.add(len(expected))
    assert len(lengths) > 2, "the end of a sequence is a part of the test"


def test_sampled_output_does_not_depend_on_company(checkpoint):
    options = {"temperature": 1.2, "presence_penalty": 0.8, "frequency_penalty": 0.3, "seed": 5,
               "typical_p": 0.8, "banned": ((7, 8), (9,)), "repetition_penalty": 1.1}
    request = submit(0, prompts(1)[0], MAX_TOKENS, **options)
    alone = run_all(engine_of(checkpoint), {0: [request]}).token_ids[0]
    crowd = [submit(key, prompt, MAX_TOKENS, temperature=1.0, seed=key, presence_penalty=key % 3)
             for key, prompt in enumerate(prompts(12, seed=1), start=1)]
    engine = engine_of(checkpoint, kv_cache_gib=FEW_BLOCKS_GIB)
    outcomes = run_all(engine, {0: crowd[:6], 3: [request], 6: crowd[6:]})
    assert engine.stats().num_preemptions > 0
    assert outcomes.token_ids[0] == alone
