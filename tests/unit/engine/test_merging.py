"""Merged projections compute what the separate ones do."""

from __future__ import annotations

import pytest
import torch
import transformers
from tests.checkpoints import SIZES
from transformers import AutoModelForCausalLM

from tritonlm.engine.merging import merge_projections


@pytest.mark.parametrize(("family", "num_groups"), [("Llama", 4), ("Qwen2", 4), ("GPT2", 0)])
def test_logits_and_size_stay_the_same(family, num_groups):
    config = getattr(transformers, f"{family}Config")(**SIZES)
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    num_parameters = sum(p.numel() for p in model.parameters())
    tokens = torch.arange(12)[None]
    expected = model(tokens).logits
    assert merge_projections(model) == num_groups * config.num_hidden_layers // 2
    assert sum(p.numel() for p in model.parameters()) == num_parameters
    torch.testing.assert_close(model(tokens).logits, expected)


def test_a_merged_model_compiles_to_one_graph_with_one_output():
    model = AutoModelForCausalLM.from_config(transformers.LlamaConfig(**SIZES)).eval()
    layer = model.model.layers[0].mlp
    merge_projections(model)
    hidden = torch.randn(3, SIZES["hidden_size"])
    outputs = []

    def keep_outputs(graph, _inputs):
        outputs.extend(graph.graph.output_node().args[0])
        return graph

    with torch.inference_mode():
        compiled = torch.compile(layer, fullgraph=True, backend=keep_outputs)
        torch.testing.assert_close(compiled(hidden), layer(hidden))
    assert len(outputs) == 1
