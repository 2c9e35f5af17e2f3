"""Cuts a model into parts, by the plan that transformers has for each family.

A column-wise part computes some of the outputs, a row-wise part a share of all of them, which are
then summed: https://arxiv.org/abs/1909.08053.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from tritonlm.engine.tensor_parallel.group import Group, join_parts, sum_parts

Cut = Callable[[nn.Module, Group], nn.Module]


class CannotShard(Exception):
    """The model has no parts of the wanted number."""


class _Joined(nn.Module):
    """A part of a projection's outputs, and then all of them."""

    def __init__(self, part: nn.Linear, num_outputs: int, size: int) -> None:
        super().__init__()
        self.part, self._num_outputs, self._size = part, num_outputs, size

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """All outputs; the parts of the last one may be padded."""
        joined: torch.Tensor = join_parts(self.part(hidden), self._size)
        return joined[..., : self._num_outputs]


class _Summed(nn.Module):
    """A module that computes a share of its output, and then all of it."""

    def __init__(self, part: nn.Module, bias: torch.Tensor | None = None) -> None:
        super().__init__()
        self.part = part
        self.bias = None if bias is None else nn.Parameter(bias, False)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """What the whole module would give."""
        total: torch.Tensor = sum_parts(self.part(*inputs))
        return total if self.bias is None else total + self.bias


class _Split(nn.Module):
    """A module that takes a part of an input that each process has whole."""

    def __init__(self, inner: nn.Module, group: Group) -> None:
        super().__init__()
        self.inner, self._group = inner, group

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """What the whole module would give."""
        part: torch.Tensor = hidden.chunk(self._group.size, -1)[self._group.rank]
        whole: torch.Tensor = self.inner(part)
        return whole


def _colwise(module: nn.Module, group: Group) -> nn.Module:
    assert isinstance(module, nn.Linear)
    return _linear(_part(module.weight, 0, group),
                   None if module.bias is None else _part(module.bias, 0, group))


def _joined(module: nn.Module, group: Group) -> nn.Module:
    assert isinstance(module, nn.Linear)
    missing = -module.out_features % group.size
    bias = module.bias
    part = _linear(_part(F.pad(module.weight, (0, 0, 0, missing)), 0, group),
                   None if bias is None else _part(F.pad(bias, (0, missing)), 0, group))
    return _Joined(part, module.out_features, group.size)


def _rowwise(module: nn.Module, group: Group) -> nn.Module:
    assert isinstance(module, nn.Linear)
    return _Summed(_linear(_part(module.weight, 1, group), None), module.bias)


def _split_rowwise(module: nn.Module, group: Group) -> nn.Module:
    return _Split(_rowwise(module, group), group)


def _experts(module: nn.Module, group: Group) -> nn.Module:
    return _Summed(module)


MODULES: dict[str, Cut] = {
    "colwise": _colwise, "colwise_gather_output": _joined, "colwise_rep": _joined,
    "rowwise": _rowwise, "rowwise_split_input": _split_rowwise, "rowwise_rep": _split_rowwise,
    "moe_tp_experts": _experts,
}
"""What is put in the place of a module, by the plan's name for it."""
PARAMETERS = {
    "packed_colwise": lambda weight, group: torch.cat(
        [_part(half, -2, group) for half in weight.chunk(2, -2)], -2),
    "rowwise": lambda weight, group: _part(weight, -1, group),
}
"""What is put in the place of the weights of experts, which are no modules."""
WHOLE = ("embedding_rowwise", "replicated_with_grad_allreduce")
"""What each process keeps whole: small, or only looked up."""


def shard(module: PreTrainedModel, group: Group) -> None:
    """Leave this process's part of `module` only, in place.

    Raises `CannotShard` if its family has no plan, or cannot be cut into `group.size` parts.
    """
    plan: dict[str, str] = getattr(module, "_tp_plan", None) or {}
    if not any(style in MODULES for name, style in plan.items() if name != "lm_head"):
        raise CannotShard("transformers has no plan of how to split it")
    unknown = set(plan.values()) - MODULES.keys() - PARAMETERS.keys() - set(WHOLE)
    if unknown:
        raise CannotShard(f"its plan asks for {', '.join(sorted(unknown))}, which is not supported")
    _check_heads(module, plan, group)
    patterns = [(re.compile(re.escape(names).replace(r"\*", r"\d+")), style)
                for names, style in plan.items()]
    for names, style in patterns:
        _cut_parameters(module, names, style, group)
    for names, style in patterns:
        _cut_modules(module, names, style, group)


def _check_heads(module: PreTrainedModel, plan: dict[str, str], group: Group) -> None:
    config = module.config.get_text_config()
    heads = config.num_attention_heads
    for name, number in (("heads", heads),
                         ("KV heads", getattr(config, "num_key_value_heads", None) or heads)):
        is_cut = any("attention" in names or "attn" in names for names, style in plan.items()
                     if style == "colwise")
        if is_cut and number % group.size:
            raise CannotShard(f"its {number} {name} cannot be split evenly")


def _cut_parameters(
    module: nn.Module, names: re.Pattern[str], style: str, group: Group
) -> None:
    for name, weight in list(module.named_parameters()):
        if names.fullmatch(name):
            parent, _, own = name.rpartition(".")
            setattr(module.get_submodule(parent), own,
                    nn.Parameter(PARAMETERS[style](weight, group), False))


def _cut_modules(module: nn.Module, names: re.Pattern[str], style: str, group: Group) -> None:
    for name, whole in list(module.named_modules()):
        if names.fullmatch(name) and style in MODULES:
            module.set_submodule(name, MODULES[style](whole, group))


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    linear.weight = nn.Parameter(weight, False)
    if bias is not None:
        linear.bias = nn.Parameter(bias, False)
    return linear


def _part(whole: torch.Tensor, dim: int, group: Group) -> torch.Tensor:
    if whole.shape[dim] % group.size:
        raise CannotShard(f"its matrix of {' x '.join(map(str, whole.shape))} cannot be split "
                          "evenly")
    # A copy, so that the memory of the whole can be given back.
    return whole.data.chunk(group.size, dim)[group.rank].clone(
        memory_format=torch.contiguous_format)
