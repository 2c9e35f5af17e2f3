"""Kept rotary embeddings are the same, and there once a step."""

from __future__ import annotations

import pytest
import torch
import transformers
from tests.checkpoints import SIZES
from transformers import AutoModelForCausalLM

from tritonlm.engine.rotary import keep, keep_rotations


@pytest.mark.parametrize(("family", "num_embeddings"), [("Llama", 1), ("Qwen3", 1), ("GPT2", 0)])
def test_logits_stay_the_same(family, num_embeddings):
    config = getattr(transformers, f"{family}Config")(**SIZES)
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    tokens = torch.arange(12)[None]
    expected = model(tokens).logits
    assert keep_rotations(model) == num_embeddings
    torch.testing.assert_close(model(tokens).logits, expected)


def test_the_compiler_keeps_a_cosine_and_a_sine_for_all_layers():
    model = AutoModelForCausalLM.from_config(transformers.LlamaConfig(**SIZES)).eval()
    keep_rotations(model)
    kept = []

    def count_kept(graph, _inputs):
        kept.extend(node for node in graph.graph.nodes if "tritonlm.keep" in str(node.target))
        return graph

    with torch.inference_mode():
        torch.compile(model, backend=count_kept)(torch.arange(12)[None], use_cache=False)
    assert len(kept) == 2


def test_the_operator_is_sound():
    torch.library.opcheck(keep, (torch.randn(3, 4),), test_utils=("test_schema", "test_faketensor"))
