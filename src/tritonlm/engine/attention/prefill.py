"""Attention of many queries per request over its paged keys and values, under a causal mask."""
# Kernels are not Python: their arguments have no types that it knows.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
import triton.language as tl

from tritonlm.engine.attention.tile import (
    LOWEST,
    Layer,
    add_tile,
    find_blocks,
    load_rows,
    load_tile,
    score,
    score_units,
    store_rows,
)

MIN_REQUEST_PLACES = 32
CPU_SHARED_BYTES = 2**20
"""As much as the interpreter pretends to have."""


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

    def shared_bytes(self, layer: Layer, dtype: torch.dtype) -> int:
        """Memory of a processor that a program needs for queries, keys and values."""
        dims = layer.keys.padded_dim + layer.values.padded_dim
        return dtype.itemsize * (self.rows * layer.keys.padded_dim
                                 + self.num_stages * self.tile * dims)


TUNINGS = (PrefillTuning(rows=128, tile=64, num_warps=8, num_stages=3),
           PrefillTuning(rows=128, tile=64, num_warps=8, num_stages=2),
           PrefillTuning(rows=64, tile=32, num_warps=4, num_stages=2))
"""The first that fits was the fastest on an H200."""
FLOAT32_TUNING = PrefillTuning(rows=32, tile=16, num_warps=4, num_stages=2)
"""Products without matrix units take many registers."""


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
    layer = Layer.of(query, keys, values, window, softcap)
    return prefill(query, keys, values, block_tables, query_starts, context_lens, scale, window,
                   softcap, choose_tuning(layer, query.dtype, _shared_bytes(keys.device)))


@prefill_attention.register_fake
def _(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, block_tables: torch.Tensor,
    query_starts: torch.Tensor, context_lens: torch.Tensor, scale: float,
    window: int | None = None, softcap: float | None = None,
) -> torch.Tensor:
    return query.new_empty(*query.shape[:2], values.shape[3])


def choose_tuning(layer: Layer, dtype: torch.dtype, shared_bytes: int) -> PrefillTuning:
    """The fastest for a device with `shared_bytes` for a program."""
    if dtype.itemsize > 2:
        return FLOAT32_TUNING
    return next((tuning for tuning in TUNINGS
                 if tuning.shared_bytes(layer, dtype) <= shared_bytes), TUNINGS[-1])


@lru_cache
def _shared_bytes(device: torch.device) -> int:
    if device.type == "cpu":
        return CPU_SHARED_BYTES
    properties = triton.runtime.driver.active.utils.get_device_properties(device.index)
    return int(properties["max_shared_mem"])


def prefill(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, block_tables: torch.Tensor,
    query_starts: torch.Tensor, context_lens: torch.Tensor, scale: float, window: int | None,
    softcap: float | None, tuning: PrefillTuning,
) -> torch.Tensor:
    """`prefill_attention` with a tuning of one's own."""
    layer = Layer.of(query, keys, values, window, softcap)
    num_tokens, num_heads, _ = query.shape
    num_requests = context_lens.shape[0]
    rows = max(tuning.rows, layer.padded_group)
    num_chunks = num_tokens // (rows // layer.group) + num_requests
    out = query.new_empty(num_tokens, num_heads, layer.values.dim)
    _prefill[keys.shape[2], num_chunks](
        out, query, keys, values, block_tables, query_starts, context_lens, num_requests,
        *score_units(scale, softcap), query.stride(0), query.stride(1), block_tables.stride(0),
        LAYER=layer, ROWS=rows, TILE=tuning.tile,
        REQUESTS=max(triton.next_power_of_2(num_requests), MIN_REQUEST_PLACES),
        num_warps=tuning.num_warps, num_stages=tuning.num_stages,
    )
    return out


@triton.jit(do_not_specialize=["num_requests"])
def _prefill(
    out_ptr, query_ptr, keys_ptr, values_ptr, block_tables_ptr, query_starts_ptr,
    context_lens_ptr, num_requests, slope, unit, query_stride, query_head_stride, table_stride,
    LAYER: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr, REQUESTS: tl.constexpr,
):
    """A chunk of one request's queries, for the query heads of one KV head."""
    QUERIES: tl.constexpr = ROWS // LAYER.group
    head = tl.program_id(0)
    # The last chunks see the most keys: they go first.
    place = tl.num_programs(1) - 1 - tl.program_id(1)
    request, chunk = _find_chunk(query_starts_ptr, num_requests, place, QUERIES, REQUESTS)
    query_start = tl.load(query_starts_ptr + request)
    num_queries = tl.load(query_starts_ptr + request + 1) - query_start
    first_query = chunk * QUERIES
    if first_query >= num_queries:
        return
    num_keys = tl.load(context_lens_ptr + request)
    rows = tl.arange(0, ROWS)
    queries = first_query + rows // LAYER.group
    is_mine = (rows < QUERIES * LAYER.group) & (queries < num_queries)
    heads = head * LAYER.group + rows % LAYER.group
    tokens = (query_start + queries).to(tl.int64)
    query = load_rows(query_ptr, tokens * query_stride + heads * query_head_stride, is_mine,
                      LAYER.keys.dim, LAYER.keys.padded_dim)
    average = _attend_chunk(
        query, num_keys - num_queries + queries, num_keys - num_queries + first_query,
        keys_ptr + head * LAYER.keys.head_stride, values_ptr + head * LAYER.values.head_stride,
        block_tables_ptr + request.to(tl.int64) * table_stride, num_keys, slope, unit,
        LAYER, QUERIES, ROWS, TILE)
    num_heads = tl.num_programs(0) * LAYER.group
    store_rows(out_ptr, (tokens * num_heads + heads) * LAYER.values.dim, is_mine, average,
               LAYER.values.dim, LAYER.values.padded_dim)


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
def _attend_chunk(
    query, positions, first_position, keys_ptr, values_ptr, table_ptr, num_keys, slope, unit,
    LAYER: tl.constexpr, QUERIES: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr,
):
    """Attention of `query` [ROWS, padded key dim]: averages [ROWS, padded value dim]."""
    DIM: tl.constexpr = LAYER.values.padded_dim
    num_keys = tl.minimum(first_position + QUERIES, num_keys)
    first_tile = 0
    partial_tile = (first_position + 1) // TILE
    if LAYER.window > 0:
        first_tile = tl.maximum(first_position + 1 - LAYER.window, 0) // TILE
        partial_tile = first_tile
    total = tl.zeros((ROWS, DIM), tl.float32)
    row_max = tl.full((ROWS,), LOWEST, tl.float32)
    row_sum = tl.zeros((ROWS,), tl.float32)
    total, row_max, row_sum = _attend_tiles(
        query, positions, first_tile, partial_tile, total, row_max, row_sum,
        keys_ptr, values_ptr, table_ptr, num_keys, slope, unit, LAYER, TILE, False)
    total, row_max, row_sum = _attend_tiles(
        query, positions, partial_tile, tl.cdiv(num_keys, TILE), total, row_max, row_sum,
        keys_ptr, values_ptr, table_ptr, num_keys, slope, unit, LAYER, TILE, True)
    return total / row_sum[:, None]


@triton.jit
def _attend_tiles(
    query, positions, first_tile, end_tile, total, row_max, row_sum,
    keys_ptr, values_ptr, table_ptr, num_keys, slope, unit,
    LAYER: tl.constexpr, TILE: tl.constexpr, IS_PARTIAL: tl.constexpr,
):
    """Take the tiles from `first_tile` into the softmax; some keys are hidden if IS_PARTIAL."""
    KEYS: tl.constexpr = LAYER.keys
    VALUES: tl.constexpr = LAYER.values
    blocks = find_blocks(table_ptr, first_tile * TILE, num_keys, KEYS, TILE)
    for tile in range(first_tile, end_tile):
        start = tile * TILE
        key = load_tile(keys_ptr, blocks, start, num_keys, KEYS, TILE, IS_PARTIAL)
        scores = score(query, key.to(query.dtype), slope, LAYER.is_capped)
        if IS_PARTIAL:
            behind = positions[:, None] - (start + tl.arange(0, TILE)[None, :])
            is_seen = behind >= 0
            if LAYER.window > 0:
                is_seen = is_seen & (behind < LAYER.window)
            scores = tl.where(is_seen, scores, float("-inf"))
        value = load_tile(values_ptr, blocks, start, num_keys, VALUES, TILE, IS_PARTIAL)
        value = value.to(query.dtype)
        # Ahead of its use: the next tile's loads do not wait for it.
        blocks = find_blocks(table_ptr, start + TILE, num_keys, KEYS, TILE)
        total, row_max, row_sum = add_tile(scores, value, unit, total, row_max, row_sum)
    return total, row_max, row_sum
