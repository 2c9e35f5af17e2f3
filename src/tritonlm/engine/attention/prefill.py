# Kernels are not Python: their arguments have no types of its own.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Attention of many queries per request over its paged keys and values, under a causal mask."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from tritonlm.engine.attention.tile import (
    LOWEST,
    add_tile,
    find_blocks,
    load_tile,
    score,
    score_units,
)

TILE_BYTES = 32 * 1024
"""Of keys and values."""


@dataclass(frozen=True)
class PrefillTuning:
    """How the work is cut; any values give the same results."""

    rows: int
    """Queries, times the heads that share a KV head, that a program works on at once."""
    tile: int
    """Keys that it works on at once."""
    num_warps: int
    num_stages: int
    """Tiles on their way from memory, and the one that is worked on."""


@triton.jit
def _find_chunk(
    query_starts_ptr, num_requests, place, QUERIES: tl.constexpr, REQUESTS: tl.constexpr,
):
    """The request, and which chunk of QUERIES of it, that `place` stands for.

    Request r has the places from query_starts[r] // QUERIES + r: enough for all of its chunks.
    """
    requests = tl.arange(0, REQUESTS)
    starts = tl.load(query_starts_ptr + requests, mask=requests < num_requests, other=0)
    places = starts // QUERIES + requests
    is_reached = (requests < num_requests) & (places <= place)
    request = tl.sum(is_reached.to(tl.int32)) - 1
    return request, place - tl.max(tl.where(is_reached, places, 0))


@triton.jit
def _attend_tiles(
    query, positions, first_tile, end_tile, total, row_max, row_sum,
    keys_ptr, values_ptr, table_ptr, num_keys, slope, unit,
    KEY_STRIDES: tl.constexpr, VALUE_STRIDES: tl.constexpr, HAS_SOFTCAP: tl.constexpr,
    WINDOW: tl.constexpr, PAGE: tl.constexpr, TILE: tl.constexpr, IS_PARTIAL: tl.constexpr,
    KEY_DIM: tl.constexpr, PADDED_KEY_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr, PADDED_VALUE_DIM: tl.constexpr,
):
    """Take the tiles from `first_tile` into the softmax; some keys are hidden if IS_PARTIAL."""
    blocks = find_blocks(table_ptr, first_tile * TILE, num_keys, PAGE, TILE)
    for tile in range(first_tile, end_tile):
        start = tile * TILE
        key = load_tile(keys_ptr, blocks, start, num_keys, KEY_STRIDES, KEY_DIM,
                        PADDED_KEY_DIM, PAGE, TILE, IS_PARTIAL)
        scores = score(query, key, slope, HAS_SOFTCAP)
        if IS_PARTIAL:
            behind = positions[:, None] - (start + tl.arange(0, TILE)[None, :])
            is_seen = behind >= 0
            if WINDOW > 0:
                is_seen = is_seen & (behind < WINDOW)
            scores = tl.where(is_seen, scores, float("-inf"))
        value = load_tile(values_ptr, blocks, start, num_keys, VALUE_STRIDES, VALUE_DIM,
                          PADDED_VALUE_DIM, PAGE, TILE, IS_PARTIAL)
        # Ahead of its use: the next tile's loads do not wait for it.
        blocks = find_blocks(table_ptr, start + TILE, num_keys, PAGE, TILE)
        total, row_max, row_sum = add_tile(scores, value, unit, total, row_max, row_sum)
    return total, row_max, row_sum


@triton.jit(do_not_specialize=["num_requests"])
def _prefill(
    out_ptr, query_ptr, keys_ptr, values_ptr, block_tables_ptr, query_starts_ptr,
    context_lens_ptr, num_requests, slope, unit, query_stride, query_head_stride, table_stride,
    KEY_STRIDES: tl.constexpr, VALUE_STRIDES: tl.constexpr, HAS_SOFTCAP: tl.constexpr,
    WINDOW: tl.constexpr, PAGE: tl.constexpr, REQUESTS: tl.constexpr, GROUP: tl.constexpr,
    ROWS: tl.constexpr, TILE: tl.constexpr,
    KEY_DIM: tl.constexpr, PADDED_KEY_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr, PADDED_VALUE_DIM: tl.constexpr,
):
    """A chunk of one request's queries, for the GROUP query heads of one KV head."""
    QUERIES: tl.constexpr = ROWS // GROUP
    head = tl.program_id(0)
    # The last chunks see the most keys: they go first.
    place = tl.num_programs(1) - 1 - tl.program_id(1)
    request, chunk = _find_chunk(query_starts_ptr, num_requests, place, QUERIES, REQUESTS)
    query_start = tl.load(query_starts_ptr + request)
    num_queries = tl.load(query_starts_ptr + request + 1) - query_start
    first_query = chunk * QUERIES
    if first_query >= num_queries:
        return
    context_len = tl.load(context_lens_ptr + request)
    rows = tl.arange(0, ROWS)
    queries = first_query + rows // GROUP
    positions = context_len - num_queries + queries
    is_mine = (rows < QUERIES * GROUP) & (queries < num_queries)
    heads = head * GROUP + rows % GROUP
    tokens = (query_start + queries).to(tl.int64)
    key_dims = tl.arange(0, PADDED_KEY_DIM)[None, :]
    query = tl.load(
        query_ptr + (tokens * query_stride + heads * query_head_stride)[:, None] + key_dims,
        mask=is_mine[:, None] & (key_dims < KEY_DIM), other=0.0)

    first_position = context_len - num_queries + first_query
    num_keys = tl.minimum(first_position + QUERIES, context_len)
    first_tile = 0
    partial_tile = (first_position + 1) // TILE
    if WINDOW > 0:
        first_tile = tl.maximum(first_position + 1 - WINDOW, 0) // TILE
        partial_tile = first_tile
    end_tile = tl.cdiv(num_keys, TILE)
    keys_ptr += head * KEY_STRIDES[2]
    values_ptr += head * VALUE_STRIDES[2]
    table_ptr = block_tables_ptr + request.to(tl.int64) * table_stride
    total = tl.zeros((ROWS, PADDED_VALUE_DIM), tl.float32)
    row_max = tl.full((ROWS,), LOWEST, tl.float32)
    row_sum = tl.zeros((ROWS,), tl.float32)
    total, row_max, row_sum = _attend_tiles(
        query, positions, first_tile, partial_tile, total, row_max, row_sum,
        keys_ptr, values_ptr, table_ptr, num_keys, slope, unit, KEY_STRIDES, VALUE_STRIDES,
        HAS_SOFTCAP, WINDOW, PAGE, TILE, False,
        KEY_DIM, PADDED_KEY_DIM, VALUE_DIM, PADDED_VALUE_DIM)
    total, row_max, row_sum = _attend_tiles(
        query, positions, partial_tile, end_tile, total, row_max, row_sum,
        keys_ptr, values_ptr, table_ptr, num_keys, slope, unit, KEY_STRIDES, VALUE_STRIDES,
        HAS_SOFTCAP, WINDOW, PAGE, TILE, True,
        KEY_DIM, PADDED_KEY_DIM, VALUE_DIM, PADDED_VALUE_DIM)

    dims = tl.arange(0, PADDED_VALUE_DIM)[None, :]
    num_heads = tl.num_programs(0) * GROUP
    out_ptr += (tokens * num_heads + heads)[:, None] * VALUE_DIM
    tl.store(out_ptr + dims, total / row_sum[:, None],
             mask=is_mine[:, None] & (dims < VALUE_DIM))


def prefill(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, block_tables: torch.Tensor,
    query_starts: torch.Tensor, context_lens: torch.Tensor, scale: float, window: int | None,
    softcap: float | None, tuning: PrefillTuning,
) -> torch.Tensor:
    """`prefill_attention` with a tuning of one's own."""
    num_tokens, num_heads, key_dim = query.shape
    _, page, num_kv_heads, value_dim = values.shape
    num_requests = context_lens.shape[0]
    group = num_heads // num_kv_heads
    rows = max(tuning.rows, triton.next_power_of_2(group))
    out = query.new_empty(num_tokens, num_heads, value_dim)
    slope, unit = score_units(scale, softcap)
    _prefill[num_kv_heads, num_tokens // (rows // group) + num_requests](
        out, query, keys, values, block_tables, query_starts, context_lens, num_requests,
        slope, unit, query.stride(0), query.stride(1), block_tables.stride(0),
        KEY_STRIDES=keys.stride()[:3], VALUE_STRIDES=values.stride()[:3],
        HAS_SOFTCAP=softcap is not None, WINDOW=window or 0, PAGE=page,
        REQUESTS=max(triton.next_power_of_2(num_requests), 32), GROUP=group, ROWS=rows,
        TILE=tuning.tile, KEY_DIM=key_dim, PADDED_KEY_DIM=triton.next_power_of_2(key_dim),
        VALUE_DIM=value_dim, PADDED_VALUE_DIM=triton.next_power_of_2(value_dim),
        num_warps=tuning.num_warps, num_stages=tuning.num_stages,
    )
    return out


@torch.library.custom_op("tritonlm::prefill_attention", mutates_args=())
def prefill_attention(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, block_tables: torch.Tensor,
    query_starts: torch.Tensor, context_lens: torch.Tensor, scale: float,
    window: int | None = None, softcap: float | None = None,
) -> torch.Tensor:
    """Attend with `query` [T, heads, dim]: the last tokens of n requests, one after the other.

    Those of request r are `query_starts`[r] to `query_starts`[r + 1], int32 [n + 1], and see the
    keys up to their own. The other arguments are those of `decode_attention`. Returns [T, heads,
    value dim]; what is behind the last request's tokens is undefined.
    """
    tuning = choose_tuning(keys.shape[3], values.shape[3], keys.dtype)
    return prefill(query, keys, values, block_tables, query_starts, context_lens, scale, window,
                   softcap, tuning)


@prefill_attention.register_fake
def _(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, block_tables: torch.Tensor,
    query_starts: torch.Tensor, context_lens: torch.Tensor, scale: float,
    window: int | None = None, softcap: float | None = None,
) -> torch.Tensor:
    return query.new_empty(*query.shape[:2], values.shape[3])


def choose_tuning(key_dim: int, value_dim: int, dtype: torch.dtype) -> PrefillTuning:
    """The fastest found on an H200, within the shared memory of a processor."""
    token_bytes = triton.next_power_of_2(key_dim + value_dim) * dtype.itemsize
    tile = min(max(TILE_BYTES // token_bytes, 16), 64)
    if dtype.itemsize > 2:
        return PrefillTuning(rows=64, tile=tile, num_warps=4, num_stages=2)
    return PrefillTuning(rows=128, tile=tile, num_warps=8, num_stages=3)
