"""How many tokens a step takes where nobody says."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tests.checkpoints import SIZES, VOCAB_SIZE
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen3MoeConfig

from tritonlm.config import ModelConfig
from tritonlm.engine import step_tokens
from tritonlm.engine.step_tokens import choose_step_tokens, flops_per_token

NUM_TOKENS = 256


@pytest.mark.parametrize("config", [
    LlamaConfig(**SIZES), LlamaConfig(**SIZES, tie_word_embeddings=True), GPT2Config(**SIZES)],
    ids=["Llama", "tied", "GPT-2"])
def test_operations_are_those_that_torch_counts(config):
    module = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    ids = torch.zeros(1, NUM_TOKENS, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        module(input_ids=ids, logits_to_keep=1)
    attention = 2 * 2 * NUM_TOKENS * SIZES["hidden_size"] * SIZES["num_hidden_layers"]
    logits = 2 * SIZES["hidden_size"] * VOCAB_SIZE / NUM_TOKENS
    counted = counter.get_total_flops() / NUM_TOKENS - attention - logits
    assert flops_per_token(module) == pytest.approx(counted, rel=1e-3)  # some count rotations


def test_experts_that_a_token_does_not_see_do_not_count():
    config = Qwen3MoeConfig(**SIZES, num_experts=8, num_experts_per_tok=2,
                            moe_intermediate_size=32)
    module = AutoModelForCausalLM.from_config(config)
    flops = flops_per_token(module)
    module.config.num_experts_per_tok = 8
    one_expert = 2 * 3 * SIZES["hidden_size"] * 32 * SIZES["num_hidden_layers"]
    assert flops_per_token(module) - flops == 6 * one_expert


@pytest.mark.parametrize(("flops", "settings", "expected"), [
    (0.9e9, {}, 8192), (14e9, {}, 8192), (28e9, {}, 4096), (140e9, {}, 1024), (800e9, {}, 1024),
    (140e9, {"max_num_seqs": 1500}, 1500), (14e9, {"max_num_batched_tokens": 300}, 300),
])
def test_the_larger_the_model_the_fewer_tokens(monkeypatch, flops, settings, expected):
    monkeypatch.setattr(step_tokens, "flops_per_token", lambda module: flops)
    model = SimpleNamespace(device=torch.device("cuda"), module=None)
    assert choose_step_tokens(ModelConfig(**settings), model) == expected


def test_a_cpu_has_steps_of_its_own():
    assert choose_step_tokens(ModelConfig(), SimpleNamespace(device=torch.device("cpu"))) == 2048
