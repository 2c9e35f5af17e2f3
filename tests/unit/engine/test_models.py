"""Families of models, each with tiny random weights, against `transformers.generate`."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from drive import run_all, submit
from tests.checkpoints import SIZES, save_random_model
from transformers import AutoModelForCausalLM

from tritonlm.config import ModelConfig
from tritonlm.engine.build import build_engine
from tritonlm.errors import InvalidArgument

SERVED = {
    "Llama": {"tie_word_embeddings": True},
    "Llama with scaled rope": {"rope_parameters": {
        "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64}},
    "Qwen2": {}, "Qwen2 with a sliding window": {
        "use_sliding_window": True, "sliding_window": 12, "max_window_layers": 1},
    "Qwen2Moe": {"num_experts": 4, "moe_intermediate_size": 32,
                 "shared_expert_intermediate_size": 32},
    "Qwen3": {"head_dim": 32}, "Mistral": {"sliding_window": 12}, "Phi": {},
    "Phi3": {}, "Phimoe": {"num_local_experts": 4, "sliding_window": 256},
    "Gemma": {"head_dim": 16}, "Gemma2": {"head_dim": 16, "sliding_window": 12},
    "Gemma3Text": {"head_dim": 16, "sliding_window": 12,
                   "layer_types": ["sliding_attention", "full_attention"]},
    "Gemma3 with images": {"text_config": SIZES | {
        "head_dim": 16, "sliding_window": 12,
        "layer_types": ["sliding_attention", "full_attention"]},
        "vision_config": {"model_type": "siglip_vision_model", "num_hidden_layers": 1,
                          "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2,
                          "image_size": 28}},
    "GPTNeoX": {}, "StableLm": {},
    "Olmo2": {}, "Olmo3": {"sliding_window": 12,
                           "layer_types": ["sliding_attention", "full_attention"]},
    "Olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "Cohere": {}, "Cohere2": {"sliding_window": 12, "head_dim": 16,
                              "layer_types": ["sliding_attention", "full_attention"]},
    "Starcoder2": {"sliding_window": None}, "SmolLM3": {"no_rope_layers": [1, 0]},
    "Granite": {"attention_multiplier": 0.1, "residual_multiplier": 0.3, "logits_scaling": 3.0},
    "Ministral3": {"head_dim": 16, "sliding_window": None, "rope_parameters": {
        "rope_type": "yarn", "rope_theta": 10000.0, "factor": 32.0, "beta_fast": 32.0,
        "beta_slow": 1.0, "original_max_position_embeddings": 8, "max_position_embeddings": 8,
        "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.5}},
    "Glm4": {"head_dim": 16}, "Glm4Moe": {
        "head_dim": 16, "n_routed_experts": 4, "moe_intermediate_size": 32,
        "num_experts_per_tok": 2, "first_k_dense_replace": 1, "use_qk_norm": True},
    "Exaone4": {"sliding_window": 12, "layer_types": ["sliding_attention", "full_attention"]},
    "Nemotron": {"partial_rotary_factor": 0.5}, "SeedOss": {"head_dim": 16}, "Apertus": {},
    "Ernie4_5": {"head_dim": 16}, "Afmoe": {
        "head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64,
        "num_dense_layers": 1,
        "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 12},
    "DeepseekV3": {
        "num_key_value_heads": 4, "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 16, "v_head_dim": 24, "head_dim": 8, "n_routed_experts": 4,
        "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
        "first_k_dense_replace": 1},
    "Gemma3nText": {
        "head_dim": 16, "sliding_window": 12, "num_hidden_layers": 4, "num_kv_shared_layers": 2,
        "layer_types": 2 * ["sliding_attention", "full_attention"], "laurel_rank": 4,
        "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 160},
    "Gemma4Text": {
        "head_dim": 16, "global_head_dim": 32, "sliding_window": 12, "num_hidden_layers": 4,
        "num_kv_shared_layers": 2, "layer_types": 2 * ["sliding_attention", "full_attention"],
        "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 160},
    "Mixtral": {"num_local_experts": 4}, "Qwen3Moe": {"num_experts": 4, "moe_intermediate_size": 32,
                                                      "head_dim": 16, "num_experts_per_tok": 2},
    "GPT2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "OPT": {"ffn_dim": 96, "word_embed_proj_dim": 64}, "GPTBigCode": {
        "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256},
}
LOCAL = {
    "Llama4Text": ({"attention_chunk_size": 16, "head_dim": 16, "intermediate_size_mlp": 96,
                    "num_local_experts": 2,
                    "layer_types": ["full_attention", "chunked_attention"]},
                   "layer 1 is of chunked_attention; allowed: full_attention, sliding_attention"),
    "Qwen2Moe with a sliding window": (
        {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1,
         "num_experts": 4, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32},
        "layer 0, of sliding_attention, asks for a window of None, not 16"),
    "Phimoe with a sliding window": (
        {"sliding_window": 16, "num_local_experts": 4},
        "layer 0, of sliding_attention, asks for a window of None, not 16"),
}
REFUSED = {
    "Bloom": {}, "Falcon": {}, "Mamba": {},
    "GPTJ": {"n_embd": 64, "n_head": 4, "n_layer": 2, "rotary_dim": 16},
    "GptOss": {"head_dim": 16, "num_local_experts": 4},
    "Qwen3Next": {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2,
                  "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32,
                  "layer_types": ["linear_attention", "full_attention"]},
}
TABLES = Path(__file__).resolve().parents[3] / "docs" / "models.md"
PROMPTS = [list(range(3, 3 + size)) for size in (1, 30, 7)]


def checkpoint(folder, family, options):
    config_class = getattr(transformers, f"{family.split()[0]}Config")
    return save_random_model(folder, config_class(**SIZES | options))


def settings(folder):
    return ModelConfig(str(folder), max_num_seqs=8, max_num_batched_tokens=16, kv_cache_gib=0.01)


@pytest.mark.parametrize("family", SERVED)
def test_family_generates_what_transformers_generates(family, tmp_path):
    folder = checkpoint(tmp_path, family, SERVED[family])
    model = AutoModelForCausalLM.from_pretrained(folder)
    requests = [submit(key, prompt, 20) for key, prompt in enumerate(PROMPTS)]
    outcomes = run_all(build_engine(settings(folder), print).engine, {0: requests})
    for key, prompt in enumerate(PROMPTS):
        ids = torch.tensor([prompt])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False,
                             max_new_tokens=20, pad_token_id=2)
        assert outcomes.token_ids[key] == out[0, len(prompt):].tolist()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("family", ["Qwen2Moe", "Phimoe", "Mixtral", "Qwen3Moe"])
def test_experts_in_bfloat16_are_captured_and_say_what_transformers_say(family, tmp_path):
    folder = checkpoint(tmp_path, family, SERVED[family])
    engine = build_engine(replace(settings(folder), dtype="bfloat16"), print).engine
    assert engine.runner._graphs
    requests = [submit(key, prompt, 20) for key, prompt in enumerate(PROMPTS)]
    outcomes = run_all(engine, {0: requests})
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, device_map="cuda")
    is_likely = []
    for key, prompt in enumerate(PROMPTS):
        tokens = torch.tensor([prompt + outcomes.token_ids[key]], device="cuda")
        logits = model(tokens[:, :-1]).logits[0, len(prompt) - 1 :].float()
        chosen = logits.gather(1, tokens[0, len(prompt):, None])[:, 0]
        is_likely.append(logits.max(1).values - chosen < 0.1 * logits.std(1))
    # Roundings differ, and now and then send a token to another expert.
    assert torch.stack(is_likely).float().mean() >= 0.95


@pytest.mark.parametrize("family", REFUSED)
def test_family_without_a_replaceable_attention_is_refused_by_name(family, tmp_path):
    folder = checkpoint(tmp_path, family, REFUSED[family])
    with pytest.raises(InvalidArgument, match=f"{family}.* (cannot take|computes something else)"):
        build_engine(settings(folder), print)


@pytest.mark.parametrize("family", LOCAL)
def test_another_kind_of_local_attention_is_refused_by_its_layer(family, tmp_path):
    options, reason = LOCAL[family]
    folder = checkpoint(tmp_path, family, options)
    kind = family.split()[0].removesuffix("Text")
    with pytest.raises(InvalidArgument, match=f"{kind}.* cannot take a paged attention: {reason}"):
        build_engine(settings(folder), print)


@pytest.mark.parametrize(("heading", "families"),
                         [("Tested", SERVED), ("Refused", REFUSED | LOCAL)])
def test_the_documented_families_are_those_tested_here(heading, families):
    section = TABLES.read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \|", section, re.MULTILINE)
    assert sorted(rows[1:]) == sorted(families), "the first one is the table's head"
