"""The MLP of the last layer, for the tokens alone whose logits are wanted.

No other token looks at what the last layer makes of a prompt's tokens: they are needed for their
keys and values, which come before the MLP. It is most of the layer's work.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class WantedRows(nn.Module):
    """Stands for an MLP, and leaves zeros for tokens that are not wanted."""

    places: torch.Tensor | None = None
    """Of the wanted tokens, [n]; to be set before each step."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """What the MLP makes of `hidden`, [1, T, dim]."""
        # What stays here would be an output of the compiled model.
        places, self.places = self.places, None
        assert places is not None, "the places of the wanted tokens are to be set before"
        return torch.zeros_like(hidden).index_copy(1, places.long(), self.mlp(hidden[:, places]))


def trim_last_layer(module: nn.Module) -> bool:
    """Let the last layer of `module` pass over what is not wanted; false if it has no plain MLP.

    Plain is one that ends in a linear layer `down_proj` as that of Llama does: it treats each
    token by itself.
    """
    stacks = [part for part in module.modules() if isinstance(part, nn.ModuleList) and len(part)]
    last: Any = max(stacks, key=len)[-1] if stacks else None
    mlp = getattr(last, "mlp", None)
    if not isinstance(getattr(mlp, "down_proj", None), nn.Linear):
        return False
    last.mlp = WantedRows(mlp)  # type: ignore[arg-type]
    return True
