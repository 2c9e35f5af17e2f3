"""Rotary embeddings are computed once a step.

A compiler takes sines and cosines for cheap, and computes them again in every layer that uses them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


@torch.library.custom_op("tritonlm::keep", mutates_args=())
def keep(values: torch.Tensor) -> torch.Tensor:
    """A copy of `values`, which a compiler does not look behind."""
    return values.clone()


@keep.register_fake
def _(values: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(values)


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
