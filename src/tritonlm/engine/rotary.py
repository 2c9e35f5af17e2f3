"""Rotary embeddings depend on positions alone, and are computed once a step.

A compiler takes sines and cosines for cheap, and computes them again in every layer that uses them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS


@torch.library.custom_op("tritonlm::keep", mutates_args=())
def keep(values: torch.Tensor) -> torch.Tensor:
    """A copy of `values`, which a compiler does not look behind."""
    return values.clone()


@keep.register_fake
def _(values: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(values)


def pin_rotations(module: nn.Module, max_model_len: int) -> None:
    """Let no rotary embedding in `module` change with the lengths of the requests in a step.

    transformers takes LongRoPE's short or long factors by the largest position of a whole batch;
    here all take those of `max_model_len`, which is at most the checkpoint's own limit. Up to that
    limit a dynamic embedding is a plain one.
    """
    part: Any
    for part in module.modules():
        kinds = getattr(part, "rope_type", None)
        if isinstance(kinds, dict):
            for layer_type, kind in kinds.items():
                kinds[layer_type] = _pin(part, kind, max_model_len, layer_type)
        elif isinstance(kinds, str):
            part.rope_type = _pin(part, kinds, max_model_len)


def _pin(part: Any, kind: str, max_model_len: int, layer_type: str | None = None) -> str:
    """Pin the frequencies of `layer_type` in `part`; the kind it is from now on."""
    if kind == "longrope":
        old = part.get_buffer(f"{layer_type}_inv_freq" if layer_type else "inv_freq")
        new, _ = ROPE_INIT_FUNCTIONS[kind](part.config, old.device, seq_len=max_model_len,
                                           layer_type=layer_type)
        old.copy_(new)
        _pin_scale(part.config.rope_parameters, max_model_len)
    return "default" if kind in ("longrope", "dynamic") else kind


def _pin_scale(parameters: dict[str, Any], max_model_len: int) -> None:
    """Pin what PhiMoE reads again in every step: it has a scale for long batches, too."""
    if "long_mscale" in parameters:
        is_long = max_model_len > parameters["original_max_position_embeddings"]
        scale = parameters["long_mscale" if is_long else "short_mscale"]
        parameters.update(rope_type="default", attention_factor=scale)


def keep_rotations(module: nn.Module) -> int:
    """Keep what the rotary embeddings in `module` return; how many of them there are."""
    embeddings = [part for part in module.modules() if _is_rotary(part)]
    for part in embeddings:
        part.register_forward_hook(_keep_tensors)
    return len(embeddings)


def _is_rotary(module: nn.Module) -> bool:
    return any(name.endswith("inv_freq") for name, _ in module.named_buffers(recurse=False))


def _keep_tensors(_module: nn.Module, _arguments: Any, output: Any) -> Any:
    if isinstance(output, tuple) and all(isinstance(part, torch.Tensor) for part in output):
        return tuple(keep(part) for part in output)
    return output
