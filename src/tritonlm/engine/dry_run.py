"""A step that is run to see what it takes."""

from __future__ import annotations

import torch

from tritonlm.engine.attention.interface import use_attention
from tritonlm.engine.loading import LoadedModel


@torch.inference_mode()
def step_bytes(model: LoadedModel, num_tokens: int, num_logits: int) -> int:
    """GPU memory that a step takes for a moment, at most: one is run, without its attention.

    `num_logits` is how many tokens have logits; all may.
    """
    device = model.device
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    places = torch.arange(num_tokens, device=device)[None]
    kept = {"logits_to_keep": num_logits} if model.can_choose_logits else {}
    with use_attention(_pass_over):
        model.module(input_ids=torch.zeros_like(places), position_ids=places % model.max_model_len,
                     use_cache=False, **kept)
    return torch.cuda.max_memory_allocated(device) - before


def _pass_over(
    layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
    scale: float, window: int | None = None, softcap: float | None = None,
) -> torch.Tensor:
    return query.new_zeros(*query.shape[:2], value.shape[2])
