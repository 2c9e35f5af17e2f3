# Kernels are not Python: their arguments have no types of its own.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""What the attention kernels share: tiles of paged keys and values, and the online softmax.

The softmax is one of powers of 2, for which the device has an instruction.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOWEST = tl.constexpr(-1.0e30)
"""The maximum of no scores. Finite, so that it can be subtracted from itself."""
LOG2_E = 1.4426950408889634


@triton.jit
def find_blocks(table_ptr, first_key, num_keys, PAGE: tl.constexpr, TILE: tl.constexpr):
    """The blocks that hold keys `first_key` to `first_key + TILE`: one, or [TILE, 1].

    `first_key` is a multiple of TILE; block 0 stands in for what is at or behind `num_keys`.
    """
    if PAGE % TILE == 0:
        block = tl.load(table_ptr + first_key // PAGE, mask=first_key < num_keys, other=0)
    else:
        keys = first_key + tl.arange(0, TILE)[:, None]
        block = tl.load(table_ptr + keys // PAGE, mask=keys < num_keys, other=0)
    return block.to(tl.int64)


@triton.jit
def load_tile(
    cache_ptr, blocks, first_key, num_keys,
    STRIDES: tl.constexpr, DIM: tl.constexpr, PADDED_DIM: tl.constexpr,
    PAGE: tl.constexpr, TILE: tl.constexpr, IS_PARTIAL: tl.constexpr,
):
    """Keys, or values, `first_key` to `first_key + TILE` of one head, [TILE, PADDED_DIM].

    `blocks` are those of `find_blocks`. Zeros stand in for what is at or behind `num_keys`; only
    if IS_PARTIAL may there be any.
    """
    keys = first_key + tl.arange(0, TILE)[:, None]
    dims = tl.arange(0, PADDED_DIM)[None, :]
    exists = tl.full((TILE, 1), True, tl.int1)
    if IS_PARTIAL:
        exists = keys < num_keys
    if PADDED_DIM != DIM:
        exists = exists & (dims < DIM)
    places = keys % PAGE * STRIDES[1] + dims
    return tl.load(cache_ptr + blocks * STRIDES[0] + places, mask=exists, other=0.0)


@triton.jit
def score(query, key, slope, HAS_SOFTCAP: tl.constexpr):
    """Scores of `query` [ROWS, dim] for `key` [TILE, dim], float32 [ROWS, TILE].

    They are the products, or the hyperbolic tangents of `slope` / (2 log2 e) times the products.
    """
    scores = tl.dot(query, tl.trans(key), input_precision="ieee")
    if HAS_SOFTCAP:
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


def score_units(scale: float, softcap: float | None) -> tuple[float, float]:
    """`slope` and `unit` of a layer whose scores are `scale` times the products, capped."""
    if softcap is None:
        return 0.0, scale * LOG2_E
    return 2 * LOG2_E * scale / softcap, softcap * LOG2_E
