"""A KV cache of 8-bit floats: less memory, and the tokens that such rounding gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from drive import run_all, submit
from tests.checkpoints import VOCAB_SIZE, save_random_model
from transformers import AutoModelForCausalLM, DynamicCache

from tritonlm.config import ModelConfig
from tritonlm.engine.build import build_engine
from tritonlm.engine.cache import FP8
from tritonlm.errors import InvalidArgument

PROMPTS = [np.random.default_rng(size).integers(3, VOCAB_SIZE, size).tolist() for size in (9, 30)]
CACHE_GIB = 0.001


class RoundingCache(DynamicCache):
    """What transformers attends to, rounded to 8 bits on its way in."""

    def update(self, key_states, value_states, *arguments, **others):
        return super().update(key_states.to(FP8).to(key_states.dtype),
                              value_states.to(FP8).to(value_states.dtype), *arguments, **others)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return save_random_model(tmp_path_factory.mktemp("checkpoint"))


def engine_of(checkpoint, dtype):
    return build_engine(ModelConfig(str(checkpoint), device="cpu", kv_cache_gib=CACHE_GIB,
                                    kv_cache_dtype=dtype), print).engine


def test_output_equals_generate_with_a_cache_that_rounds(checkpoint):
    requests = [submit(key, prompt, 12) for key, prompt in enumerate(PROMPTS)]
    outcomes = run_all(engine_of(checkpoint, "fp8"), {0: requests})
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    for key, prompt in enumerate(PROMPTS):
        ids = torch.tensor([prompt])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False,
                             max_new_tokens=12, pad_token_id=2, past_key_values=RoundingCache())
        assert outcomes.token_ids[key] == out[0, len(prompt):].tolist()


def test_the_same_memory_holds_four_times_as_many_tokens_as_in_float32(checkpoint):
    full, small = (engine_of(checkpoint, dtype).scheduler.blocks.num_blocks
                   for dtype in ("auto", "fp8"))
    assert small // 4 == full


def test_another_type_is_refused():
    with pytest.raises(InvalidArgument, match="kv_cache_dtype"):
        ModelConfig(kv_cache_dtype="int8")
