# Kernels are not Python: their arguments have no types of its own.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Stores the keys and values of new tokens in the paged cache."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _copy_token(
    source_ptr, target_ptr, stride_head, stride_dim, TARGET_STRIDE_HEAD: tl.constexpr,
    HEADS: tl.constexpr, PADDED_HEADS: tl.constexpr, DIM: tl.constexpr, PADDED_DIM: tl.constexpr,
):
    heads = tl.arange(0, PADDED_HEADS)[:, None]
    dims = tl.arange(0, PADDED_DIM)[None, :]
    exists = (heads < HEADS) & (dims < DIM)
    vector = tl.load(source_ptr + heads * stride_head + dims * stride_dim, mask=exists)
    tl.store(target_ptr + heads * TARGET_STRIDE_HEAD + dims, vector, mask=exists)


@triton.jit
def _write(
    keys_ptr, values_ptr, slots_ptr, new_keys_ptr, new_values_ptr,
    key_stride, key_stride_head, key_stride_dim,
    value_stride, value_stride_head, value_stride_dim,
    KEY_STRIDES: tl.constexpr, VALUE_STRIDES: tl.constexpr, PAGE: tl.constexpr,
    HEADS: tl.constexpr, PADDED_HEADS: tl.constexpr,
    KEY_DIM: tl.constexpr, PADDED_KEY_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr, PADDED_VALUE_DIM: tl.constexpr,
):
    """One token."""
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots_ptr + token).to(tl.int64)
    if slot < 0:
        return
    block, place = slot // PAGE, slot % PAGE
    _copy_token(new_keys_ptr + token * key_stride,
                keys_ptr + block * KEY_STRIDES[0] + place * KEY_STRIDES[1],
                key_stride_head, key_stride_dim, KEY_STRIDES[2],
                HEADS, PADDED_HEADS, KEY_DIM, PADDED_KEY_DIM)
    _copy_token(new_values_ptr + token * value_stride,
                values_ptr + block * VALUE_STRIDES[0] + place * VALUE_STRIDES[1],
                value_stride_head, value_stride_dim, VALUE_STRIDES[2],
                HEADS, PADDED_HEADS, VALUE_DIM, PADDED_VALUE_DIM)


@torch.library.custom_op("tritonlm::write_cache", mutates_args=("keys", "values"))
def write_cache(
    keys: torch.Tensor, values: torch.Tensor, slots: torch.Tensor,
    new_keys: torch.Tensor, new_values: torch.Tensor,
) -> None:
    """Store `new_keys` and `new_values`, [T, KV heads, dim], at `slots`, integers [T].

    The caches are [blocks, block size, KV heads, dim], contiguous in dim alone; a slot is block
    times block size plus place, and -1 for a token that is not to be stored.
    """
    num_tokens, num_heads, key_dim = new_keys.shape
    value_dim = new_values.shape[2]
    _write[(num_tokens,)](
        keys, values, slots, new_keys, new_values, *new_keys.stride(), *new_values.stride(),
        KEY_STRIDES=keys.stride()[:3], VALUE_STRIDES=values.stride()[:3], PAGE=keys.shape[1],
        HEADS=num_heads, PADDED_HEADS=triton.next_power_of_2(num_heads),
        KEY_DIM=key_dim, PADDED_KEY_DIM=triton.next_power_of_2(key_dim),
        VALUE_DIM=value_dim, PADDED_VALUE_DIM=triton.next_power_of_2(value_dim),
        num_warps=4,
    )


@write_cache.register_fake
def _(
    keys: torch.Tensor, values: torch.Tensor, slots: torch.Tensor,
    new_keys: torch.Tensor, new_values: torch.Tensor,
) -> None:
    pass
