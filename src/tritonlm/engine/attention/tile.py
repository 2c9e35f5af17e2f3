"""What the attention kernels share: tiles of paged keys and values, and the online softmax.

The softmax is one of powers of 2, for which the device has an instruction.
"""
# Kernels are not Python: their arguments have no types that it knows.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

LOWEST = tl.constexpr(-1.0e30)
"""The maximum of no scores. Finite, so that it can be subtracted from itself."""
LOG2_E = 1.4426950408889634
FP8_MAX = tl.constexpr(448.0)


@dataclass(frozen=True)
class CacheShape:
    """How a layer's keys, or values, lie in [blocks, block size, KV heads, dim]."""

    dim: int
    block_size: int
    block_stride: int
    place_stride: int
    head_stride: int

    @classmethod
    def of(cls, cache: torch.Tensor) -> CacheShape:
        """That of `cache`, which is contiguous in dim."""
        return cls(cache.shape[3], cache.shape[1], *cache.stride()[:3])

    @property
    def padded_dim(self) -> int:
        """A power of two, as all sizes in a kernel are."""
        return int(triton.next_power_of_2(self.dim))


@dataclass(frozen=True)
class Layer:
    """What a kernel is compiled for: shapes, strides and options of one attention layer."""

    group: int
    """Query heads that share a KV head."""
    keys: CacheShape
    values: CacheShape
    window: int
    """0 for none."""
    is_capped: bool

    @classmethod
    def of(
        cls, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, window: int | None,
        softcap: float | None,
    ) -> Layer:
        """That of `query` [T, heads, dim] and the two caches."""
        return cls(query.shape[1] // keys.shape[2], CacheShape.of(keys), CacheShape.of(values),
                   window or 0, softcap is not None)

    @property
    def padded_group(self) -> int:
        """A power of two."""
        return int(triton.next_power_of_2(self.group))


def score_units(scale: float, softcap: float | None) -> tuple[float, float]:
    """`slope` and `unit` of a layer whose scores are `scale` times the products, capped."""
    if softcap is None:
        return 0.0, scale * LOG2_E
    return 2 * LOG2_E * scale / softcap, softcap * LOG2_E


@triton.jit
def load_rows(ptr, offsets, exists, DIM: tl.constexpr, PADDED_DIM: tl.constexpr):
    """Vectors at `offsets` [ROWS], zeros where not `exists`: [ROWS, PADDED_DIM]."""
    dims = tl.arange(0, PADDED_DIM)[None, :]
    return tl.load(ptr + offsets[:, None] + dims, mask=exists[:, None] & (dims < DIM), other=0.0)


@triton.jit
def store_rows(ptr, offsets, exists, vectors, DIM: tl.constexpr, PADDED_DIM: tl.constexpr):
    """Write `vectors` [ROWS, PADDED_DIM] to `offsets` [ROWS] where `exists`."""
    dims = tl.arange(0, PADDED_DIM)[None, :]
    tl.store(ptr + offsets[:, None] + dims, vectors, mask=exists[:, None] & (dims < DIM))


@triton.jit
def store_cached(ptr, values, exists):
    """Write `values` where `exists`, in the type of the cache; 8 bits hold at most 448."""
    if ptr.dtype.element_ty.is_fp8():
        values = tl.minimum(tl.maximum(values.to(tl.float32), -FP8_MAX), FP8_MAX)
    tl.store(ptr, values.to(ptr.dtype.element_ty), mask=exists)


@triton.jit
def find_blocks(table_ptr, first_key, num_keys, CACHE: tl.constexpr, TILE: tl.constexpr):
    """The blocks that hold keys `first_key` to `first_key + TILE`: one, or [TILE, 1].

    `first_key` is a multiple of TILE; block 0 stands in for what is at or behind `num_keys`.
    """
    if CACHE.block_size % TILE == 0:
        block = tl.load(table_ptr + first_key // CACHE.block_size, mask=first_key < num_keys,
                        other=0)
    else:
        keys = first_key + tl.arange(0, TILE)[:, None]
        block = tl.load(table_ptr + keys // CACHE.block_size, mask=keys < num_keys, other=0)
    return block.to(tl.int64)


@triton.jit
def load_tile(
    cache_ptr, blocks, first_key, num_keys,
    CACHE: tl.constexpr, TILE: tl.constexpr, IS_PARTIAL: tl.constexpr,
):
    """Keys, or values, `first_key` to `first_key + TILE` of one head, [TILE, padded dim].

    `blocks` are those of `find_blocks`. Zeros stand in for what is at or behind `num_keys`; only
    if IS_PARTIAL may there be any.
    """
    keys = first_key + tl.arange(0, TILE)[:, None]
    dims = tl.arange(0, CACHE.padded_dim)[None, :]
    exists = tl.full((TILE, 1), True, tl.int1)
    if IS_PARTIAL:
        exists = keys < num_keys
    if CACHE.padded_dim != CACHE.dim:
        exists = exists & (dims < CACHE.dim)
    places = keys % CACHE.block_size * CACHE.place_stride + dims
    return tl.load(cache_ptr + blocks * CACHE.block_stride + places, mask=exists, other=0.0)


@triton.jit
def score(query, key, slope, IS_CAPPED: tl.constexpr):
    """Scores of `query` [ROWS, dim] for `key` [TILE, dim], float32 [ROWS, TILE].

    They are the products, or the hyperbolic tangents of `slope` / (2 log2 e) times the products.
    """
    scores = tl.dot(query, tl.trans(key), input_precision="ieee")
    if IS_CAPPED:
        scores = 1 - 2 / (tl.exp2(scores * slope) + 1)
    return scores


@triton.jit
def add_tile(scores, value, unit, total, row_max, row_sum):
    """Take `value` [TILE, dim] with its `scores` [ROWS, TILE], in powers of 2^`unit`, into `total`.

    `total` [ROWS, dim] is to be divided by `row_sum` [ROWS] in the end; both are relative to
    2^`row_max`. Returns the new ones of all three.
    """
    new_max = tl.maximum(row_max, tl.max(scores, 1) * unit)
    weights = tl.exp2(scores * unit - new_max[:, None])
    shrink = tl.exp2(row_max - new_max)
    row_sum = row_sum * shrink + tl.sum(weights, 1)
    total = tl.dot(weights.to(value.dtype), value, total * shrink[:, None],
                   input_precision="ieee")
    return total, new_max, row_sum
