"""Projections of the same input as one matrix each: q, k, v, and gate, up.

One large product is faster than several small ones. The modelling code stays as it is: the
projection that it calls first runs the whole product, and the others hand out their parts of it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

GROUPS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Names of sibling modules, in the order in which modelling code calls them."""


class _Part(nn.Module):
    """Stands for a projection whose product another one has run already."""

    product: torch.Tensor | None = None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """The part that was left here; `hidden` is what it was computed from."""
        # What stays here would be an output of the compiled model.
        product, self.product = self.product, None
        assert product is not None, "the projections are called in another order than expected"
        return product


class _Merged(nn.Module):
    """Stands for the first projection of a group, and computes all of them."""

    def __init__(self, linears: list[nn.Linear], parts: list[_Part]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.cat(tuple(linear.weight for linear in linears)), False)
        biases = tuple(linear.bias for linear in linears if linear.bias is not None)
        self.bias = nn.Parameter(torch.cat(biases), False) if biases else None
        self._sizes = [linear.out_features for linear in linears]
        self._parts = parts

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """The first projection of `hidden`."""
        product = F.linear(hidden, self.weight, self.bias)
        first, *others = torch.split(product, self._sizes, dim=-1)
        for part, other in zip(self._parts, others, strict=True):
            part.product = other
        return first


def merge_projections(module: nn.Module) -> int:
    """Merge all groups of plain linear layers in `module`; how many groups there were."""
    num_merged = 0
    for parent in list(module.modules()):
        for names in GROUPS:
            linears = [linear for name in names
                       if type(linear := getattr(parent, name, None)) is nn.Linear]
            if len(linears) == len(names) and _have_one_input(linears):
                parts = [_Part() for _ in names[1:]]
                for name, merged in zip(names, [_Merged(linears, parts), *parts], strict=True):
                    setattr(parent, name, merged)
                num_merged += 1
    return num_merged


def _have_one_input(linears: list[nn.Linear]) -> bool:
    return len({(linear.in_features, linear.bias is None) for linear in linears}) == 1
