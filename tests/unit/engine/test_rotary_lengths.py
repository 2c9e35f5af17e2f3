"""Rotations that transformers chooses by the longest prompt in a batch stay with the model."""

from __future__ import annotations

import pytest
import torch
from drive import run_all, submit
from tests.checkpoints import SIZES, save_random_model
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    Phi3Config,
    PhimoeConfig,
)

from tritonlm.config import ModelConfig
from tritonlm.engine.build import build_engine
from tritonlm.engine.rotary import pin_rotations

ORIGINAL_LEN = 32
SHORT, LONG = [1.0] * 8, [2.0, 5.0, 9.0, 13.0, 17.0, 21.0, 25.0, 29.0]
PROMPT, MATE = [5, 6, 7, 8, 9], list(range(3, 83))


def long_rope(short, long):
    return {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": short,
            "long_factor": long, "original_max_position_embeddings": ORIGINAL_LEN}


def phi3(short, long):
    return Phi3Config(**SIZES, original_max_position_embeddings=ORIGINAL_LEN,
                      rope_parameters=long_rope(short, long))


def phimoe(short, long):
    """With scales that differ; the frequencies are the short ones whatever the length is."""
    scales = {"short_mscale": short, "long_mscale": long}
    return PhimoeConfig(**SIZES, num_local_experts=4,
                        rope_parameters=long_rope(SHORT, LONG) | scales)


def serve(folder, prompts, max_model_len):
    config = ModelConfig(str(folder), max_num_seqs=8, kv_cache_gib=0.01,
                         max_model_len=max_model_len)
    requests = [submit(key, prompt, 8, ignore_eos=True) for key, prompt in enumerate(prompts)]
    return run_all(build_engine(config, print).engine, {0: requests}).token_ids


def generate(model, prompt):
    ids = torch.tensor([prompt])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False,
                         max_new_tokens=8, min_new_tokens=8, pad_token_id=2)
    return out[0, len(prompt):].tolist()


@pytest.mark.parametrize(("family", "short", "long"), [(phi3, SHORT, LONG), (phimoe, 1.1, 1.9)])
def test_a_short_prompt_takes_the_long_factors_alone_and_beside_a_long_one(
    family, short, long, tmp_path
):
    folder = save_random_model(tmp_path, family(short, long))
    always_long = AutoModelForCausalLM.from_pretrained(folder, config=family(long, long))
    expected = {0: generate(always_long, PROMPT), 1: generate(always_long, MATE)}
    assert serve(folder, [PROMPT, MATE], max_model_len=None) == expected
    assert serve(folder, [PROMPT], max_model_len=None) == {0: expected[0]}
    assert generate(AutoModelForCausalLM.from_pretrained(folder), PROMPT) != expected[0]


@pytest.mark.parametrize(("family", "short", "long"), [(phi3, SHORT, LONG), (phimoe, 1.1, 1.9)])
def test_within_the_original_length_all_prompts_take_the_short_factors(
    family, short, long, tmp_path
):
    folder = save_random_model(tmp_path, family(short, long))
    model = AutoModelForCausalLM.from_pretrained(folder)
    prompts = [PROMPT, MATE[:ORIGINAL_LEN - 8]]
    expected = {key: generate(model, prompt) for key, prompt in enumerate(prompts)}
    assert serve(folder, prompts, max_model_len=ORIGINAL_LEN) == expected


def test_each_kind_of_layer_is_pinned_by_its_own_kind_of_rotation():
    config = Gemma3TextConfig(
        **SIZES, head_dim=16, layer_types=["sliding_attention", "full_attention"],
        rope_parameters={"full_attention": long_rope(SHORT, LONG),
                         "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}})
    rotary = AutoModelForCausalLM.from_config(config).model.rotary_emb
    plain = rotary.sliding_attention_inv_freq.clone()
    pin_rotations(rotary, SIZES["max_position_embeddings"])
    torch.testing.assert_close(rotary.full_attention_inv_freq, plain / torch.tensor(LONG))
    torch.testing.assert_close(rotary.sliding_attention_inv_freq, plain)
    rotary(torch.zeros(1), torch.arange(4)[None], "full_attention")
    torch.testing.assert_close(rotary.full_attention_inv_freq, plain / torch.tensor(LONG))


def test_a_dynamic_rotation_is_one_graph_without_a_branch_on_data():
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES, rope_parameters=rope)).eval()
    model.requires_grad_(False)
    tokens = torch.arange(SIZES["max_position_embeddings"])[None] % SIZES["vocab_size"]
    expected = model(tokens).logits
    pin_rotations(model, tokens.shape[1])
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(tokens, use_cache=False).logits, expected)
