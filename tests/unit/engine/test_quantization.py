"""Quantised weights, against `transformers.generate` with the same ones."""

from __future__ import annotations

import pytest
import torch
from drive import run_all, submit
from small_engine import engine_of
from tests.checkpoints import SIZES, save_random_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig

from tritonlm.config import ModelConfig
from tritonlm.engine import loading
from tritonlm.engine.loading import load_model
from tritonlm.errors import InvalidArgument

PROMPTS = [list(range(3, 3 + size)) for size in (1, 30, 7)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    save_random_model(folder, LlamaConfig(**SIZES | {"intermediate_size": 128}))
    return folder


def test_int4_generates_what_transformers_generates(checkpoint):
    model = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype="float32",
        quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"))
    engine = engine_of(checkpoint, quantization="int4")
    outcomes = run_all(engine, {0: [submit(key, ids, 8) for key, ids in enumerate(PROMPTS)]})
    for key, prompt in enumerate(PROMPTS):
        ids = torch.tensor([prompt])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False,
                             max_new_tokens=8, pad_token_id=2)
        assert outcomes.token_ids[key] == out[0, len(prompt):].tolist()


def test_int4_holds_weights_of_four_bits(checkpoint):
    sizes = []
    for quantization in ("none", "int4"):
        config = ModelConfig(str(checkpoint), quantization=quantization)
        layers = load_model(config, print).module.model.layers
        sizes.append(sum(p.numel() * p.element_size() for name, p in layers.named_parameters()
                         if "proj" in name))
    assert sizes[0] == 8 * sizes[1], "float32 before"


def test_int4_without_its_packages_is_refused(checkpoint, monkeypatch):
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    with pytest.raises(InvalidArgument, match=r"int4.*accelerate and bitsandbytes must be inst"):
        load_model(ModelConfig(str(checkpoint), quantization="int4"), print)


def test_an_unknown_quantization_is_refused():
    with pytest.raises(InvalidArgument, match=r"quantization.*int3.*none, int4"):
        ModelConfig(quantization="int3")
