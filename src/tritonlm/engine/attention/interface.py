"""Our attention as transformers sees it: an implementation registered by name.

The modelling code stays as it is: it calls `_paged_attention` in every layer, which hands over to
whatever attention the current step has set.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from transformers import AttentionInterface

ATTENTION_NAME = "tritonlm_paged"


class StepAttention(Protocol):
    """The attention of one step, called by each layer."""

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
        scale: float, window: int | None = None, softcap: float | None = None,
    ) -> torch.Tensor:
        """Attend with `query` [T, heads, dim] of `layer`; returns [T, heads, value dim]."""


class UnsupportedAttention(Exception):
    """A layer asks for something that paged attention does not do."""


_current: list[StepAttention] = []


@contextmanager
def use_attention(attention: StepAttention) -> Iterator[None]:
    """Let the layers of a model that runs inside the block use `attention`."""
    _current.append(attention)
    try:
        yield
    finally:
        _current.pop()


def _paged_attention(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
    attention_mask: torch.Tensor | None, scaling: float | None = None, dropout: float = 0.0,
    sliding_window: int | None = None, softcap: float | None = None, **others: Any,
) -> tuple[torch.Tensor, None]:
    """Transformers' signature: query [1, heads, T, dim]; returns [1, T, heads, value dim]."""
    layer = getattr(module, "layer_idx", None)
    if layer is None or not getattr(module, "is_causal", True):
        raise UnsupportedAttention(f"{type(module).__name__} is not a causal layer with a number")
    if attention_mask is not None:
        raise UnsupportedAttention(f"{type(module).__name__} adds a mask of its own")
    extra = [name for name, other in others.items() if isinstance(other, torch.Tensor)
             and name not in ("position_ids", "cache_position")]
    if extra:
        raise UnsupportedAttention(f"{type(module).__name__} passes {extra[0]} to its attention")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    # A compiler is not to look into the step's attention: the next step has another one.
    call = _attend if torch.compiler.is_compiling() else _attend_now
    out = call(query[0].transpose(0, 1), key[0].transpose(0, 1), value[0].transpose(0, 1), layer,
               scale, sliding_window, softcap)
    return out.contiguous()[None], None  # as transformers' own: some code takes views of it


def _attend_now(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layer: int, scale: float,
    window: int | None, softcap: float | None,
) -> torch.Tensor:
    return _current[-1](layer, query, key, value, scale, window, softcap)


_attend = torch.library.custom_op(
    "tritonlm::attend", _attend_now, mutates_args=(),
    schema="(Tensor query, Tensor key, Tensor value, int layer, float scale, int? window, "
           "float? softcap) -> Tensor")


@_attend.register_fake
def _(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layer: int, scale: float,
    window: int | None, softcap: float | None,
) -> torch.Tensor:
    return query.new_empty(*query.shape[:2], value.shape[2])


AttentionInterface.register(ATTENTION_NAME, _paged_attention)
