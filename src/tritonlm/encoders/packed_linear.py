"""Products with float32 weights on a CPU, by oneDNN."""

from __future__ import annotations

import torch
from torch import nn


class PackedLinear(nn.Module):
    """What a `Linear` of float32 computes, from weights that are laid out for oneDNN.

    MKL, which torch takes for float32, leaves half of the speed of an AMD core with AVX-512 unused.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        # Not a parameter, which cannot have this layout; some modules look at its dtype.
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)
        self.bias = linear.bias

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """[..., m] of `values` [..., n]."""
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            values, self.weight, self.bias, "none", [], "")
        return result


def pack_linears(module: nn.Module, shared: torch.Tensor) -> None:
    """Pack every `Linear` in `module` but one of the weights `shared`, which others read too."""
    for name, child in module.named_children():
        if type(child) is not nn.Linear:
            pack_linears(child, shared)
        elif child.weight is not shared:
            setattr(module, name, PackedLinear(child))
