"""The KV cache: one pair of tensors a layer, addressed by slot (block number * size + place)."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class LayerShape:
    """Heads and their widths of one attention layer, as its own keys and values show them."""

    num_kv_heads: int
    key_dim: int
    value_dim: int


FP8 = torch.float8_e4m3fn
CACHE_DTYPES = {"fp8": FP8}
"""What the setting `kv_cache_dtype` may ask for, beside the type of the model."""


class KVCache:
    """Keys and values of every layer, [slots, heads, dim] each.

    They are zero at first: what a mask hides must not be NaN.
    """

    def __init__(
        self, layers: dict[int, LayerShape], num_slots: int, dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.keys = {index: torch.zeros(num_slots, shape.num_kv_heads, shape.key_dim,
                                        dtype=dtype, device=device)
                     for index, shape in layers.items()}
        self.values = {index: torch.zeros(num_slots, shape.num_kv_heads, shape.value_dim,
                                          dtype=dtype, device=device)
                       for index, shape in layers.items()}

    def write(
        self, layer: int, slots: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> None:
        """Store `key` and `value`, [T, heads, dim], at `slots`, int64 [T]."""
        _copy(self.keys[layer], slots, key)
        _copy(self.values[layer], slots, value)


def _copy(cache: torch.Tensor, slots: torch.Tensor, vectors: torch.Tensor) -> None:
    if cache.dtype == FP8:
        most = torch.finfo(FP8).max  # what is beyond becomes NaN
        vectors = vectors.clamp(-most, most).to(FP8).view(torch.uint8)
        cache = cache.view(torch.uint8)
    cache.index_copy_(0, slots, vectors)


def bytes_per_slot(layers: dict[int, LayerShape], dtype: torch.dtype) -> int:
    """Memory that one token takes in all layers."""
    return dtype.itemsize * sum(shape.num_kv_heads * (shape.key_dim + shape.value_dim)
                                for shape in layers.values())
