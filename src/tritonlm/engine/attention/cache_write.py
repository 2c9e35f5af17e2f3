# Kernels are not Python: their arguments have no types that it knows.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Stores the keys and values of new tokens in the paged cache."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from tritonlm.engine.attention.tile import CacheShape, store_cached


@torch.library.custom_op("tritonlm::write_cache", mutates_args=("keys", "values"))
def write_cache(
    keys: torch.Tensor, values: torch.Tensor, slots: torch.Tensor,
    new_keys: torch.Tensor, new_values: torch.Tensor,
) -> None:
    """Store `new_keys` and `new_values`, [T, KV heads, dim], at `slots`, integers [T].

    The caches are [blocks, block size, KV heads, dim], contiguous in dim alone; a slot is block
    times block size plus place, and -1 for a token that is not to be stored.
    """
    num_tokens, num_heads, _ = new_keys.shape
    _write[(num_tokens,)](
        keys, values, slots, new_keys, new_values, *new_keys.stride(), *new_values.stride(),
        HEADS=num_heads, PADDED_HEADS=triton.next_power_of_2(num_heads),
        KEYS=CacheShape.of(keys), VALUES=CacheShape.of(values), num_warps=4,
    )


@write_cache.register_fake
def _(
    keys: torch.Tensor, values: torch.Tensor, slots: torch.Tensor,
    new_keys: torch.Tensor, new_values: torch.Tensor,
) -> None:
    pass


@triton.jit
def _write(
    keys_ptr, values_ptr, slots_ptr, new_keys_ptr, new_values_ptr,
    key_stride, key_head_stride, key_dim_stride,
    value_stride, value_head_stride, value_dim_stride,
    HEADS: tl.constexpr, PADDED_HEADS: tl.constexpr, KEYS: tl.constexpr, VALUES: tl.constexpr,
):
    """One token."""
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots_ptr + token).to(tl.int64)
    if slot < 0:
        return
    _write_token(keys_ptr, slot, new_keys_ptr + token * key_stride,
                 key_head_stride, key_dim_stride, HEADS, PADDED_HEADS, KEYS)
    _write_token(values_ptr, slot, new_values_ptr + token * value_stride,
                 value_head_stride, value_dim_stride, HEADS, PADDED_HEADS, VALUES)


@triton.jit
def _write_token(
    cache_ptr, slot, new_ptr, head_stride, dim_stride,
    HEADS: tl.constexpr, PADDED_HEADS: tl.constexpr, CACHE: tl.constexpr,
):
    heads = tl.arange(0, PADDED_HEADS)[:, None]
    dims = tl.arange(0, CACHE.padded_dim)[None, :]
    exists = (heads < HEADS) & (dims < CACHE.dim)
    cache_ptr += slot // CACHE.block_size * CACHE.block_stride
    cache_ptr += slot % CACHE.block_size * CACHE.place_stride
    new = tl.load(new_ptr + heads * head_stride + dims * dim_stride, mask=exists)
    store_cached(cache_ptr + heads * CACHE.head_stride + dims, new, exists)


@triton.jit
def store_newest(cache_ptr, new_ptr, dim_stride, table_ptr, num_keys, CACHE: tl.constexpr):
    """Write the last of `num_keys` keys, or values, of one head; for other kernels."""
    dims = tl.arange(0, CACHE.padded_dim)
    is_element = dims < CACHE.dim
    place = num_keys - 1
    block = tl.load(table_ptr + place // CACHE.block_size).to(tl.int64)
    cache_ptr += block * CACHE.block_stride + place % CACHE.block_size * CACHE.place_stride
    new = tl.load(new_ptr + dims * dim_stride, mask=is_element)
    store_cached(cache_ptr + dims, new, is_element)
