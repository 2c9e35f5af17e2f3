"""How many tokens a step takes where the settings do not say."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from tritonlm.config import ModelConfig
from tritonlm.engine.loading import LoadedModel

GPU_STEP_FLOPS = 1.5e14
"""Some 0.2 s of an H200, for which the streams of others wait at most.

Smaller steps make streams smoother, and the whole slower: their products come less close to what
the GPU can do.
"""
FEWEST_GPU_TOKENS, MOST_GPU_TOKENS = 1024, 8192


def choose_step_tokens(config: ModelConfig, model: LoadedModel) -> int:
    """`max_num_batched_tokens`, or what suits the model and its device."""
    if config.max_num_batched_tokens is not None or model.device.type == "cpu":
        return config.step_tokens
    affordable = int(GPU_STEP_FLOPS / flops_per_token(model.module))
    power_of_two = 1 << affordable.bit_length() - 1
    tokens = min(max(power_of_two, FEWEST_GPU_TOKENS), MOST_GPU_TOKENS)
    return max(tokens, config.max_num_seqs)


def flops_per_token(module: PreTrainedModel) -> float:
    """Floating point operations of a token's products with weights, logits not counted."""
    passed_over = {id(part) for part in module.modules() if isinstance(part, nn.Embedding)}
    passed_over.add(id(module.get_output_embeddings()))
    num_experts = getattr(module.config, "num_experts_per_tok", 1)
    return 2 * sum(_num_seen(weight, num_experts)
                   for part in module.modules() if id(part) not in passed_over
                   for weight in part.parameters(recurse=False))


def _num_seen(weight: torch.Tensor, num_experts: int) -> float:
    """Elements of `weight` that a token is multiplied with; it sees `num_experts` of them all."""
    num_packed = 2 if weight.dtype == torch.uint8 else 1
    seen = {2: 1.0, 3: num_experts / weight.shape[0]}.get(weight.dim(), 0.0)
    return weight.numel() * num_packed * seen
