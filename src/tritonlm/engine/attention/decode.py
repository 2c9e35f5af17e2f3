# Kernels are not Python: their arguments have no types of its own.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Attention of one query per request over its paged keys and values, spread over the device.

Contexts are cut into splits of equal work, found on the device from the context lengths, so that
one captured launch suits any lengths. The program that finishes a request's last split joins the
results of all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

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

MIN_ROWS = 16
"""Fewest rows of a matrix product on the device."""
TILE_BYTES = 32 * 1024
"""Of keys and values."""
JOINED_ELEMENTS = 8192
"""Of partial results that a program holds at once."""
CPU_PROCESSORS = 2
"""As many as the interpreter pretends to have."""


@dataclass(frozen=True)
class DecodeTuning:
    """How the work is cut; any values give the same results."""

    tile: int
    """Keys that a program works on at once."""
    num_warps: int
    num_stages: int
    """Tiles on their way from memory, and the one that is worked on."""
    programs_per_processor: int
    """How many the device should have when few requests have to fill it."""


@triton.jit
def _find_split(
    context_lens_ptr, num_requests, num_spare, slot,
    WINDOW: tl.constexpr, TILE: tl.constexpr, REQUESTS: tl.constexpr,
):
    """What split `slot` of all is: its request, that one's keys and splits, and which of these.

    The request is `num_requests` or more if there is no such split: there are at most
    `num_requests` + `num_spare`.
    """
    requests = tl.arange(0, REQUESTS)
    is_request = requests < num_requests
    num_keys = tl.load(context_lens_ptr + requests, mask=is_request, other=0)
    num_tiles = tl.cdiv(num_keys, TILE)
    if WINDOW > 0:
        num_tiles -= tl.maximum(num_keys - WINDOW, 0) // TILE
    # An empty context has a split too: it writes zeros.
    num_tiles = tl.where(is_request, tl.maximum(num_tiles, 1), 0)
    num_splits = tl.cdiv(num_tiles, tl.cdiv(tl.sum(num_tiles), num_spare))
    ends = tl.cumsum(num_splits)
    is_before = ends <= slot
    request = tl.sum(is_before.to(tl.int32))
    split = slot - tl.max(tl.where(is_before, ends, 0))
    is_mine = requests == request
    return (request, tl.sum(tl.where(is_mine, num_keys, 0)),
            tl.sum(tl.where(is_mine, num_splits, 0)), split)


@triton.jit
def _attend_split(
    query, keys_ptr, values_ptr, table_ptr, num_keys, num_splits, split, slope, unit,
    KEY_STRIDES: tl.constexpr, VALUE_STRIDES: tl.constexpr, HAS_SOFTCAP: tl.constexpr,
    WINDOW: tl.constexpr, PAGE: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr,
    KEY_DIM: tl.constexpr, PADDED_KEY_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr, PADDED_VALUE_DIM: tl.constexpr,
):
    """Attention over one split: averages [ROWS, PADDED_VALUE_DIM], log2 of their weights [ROWS]."""
    first_key = 0
    if WINDOW > 0:
        first_key = tl.maximum(num_keys - WINDOW, 0)
    first_tile = first_key // TILE
    num_tiles = tl.cdiv(num_keys, TILE) - first_tile
    total = tl.zeros((ROWS, PADDED_VALUE_DIM), tl.float32)
    row_max = tl.full((ROWS,), LOWEST, tl.float32)
    row_sum = tl.zeros((ROWS,), tl.float32)
    begin_tile = first_tile + num_tiles * split // num_splits
    end_tile = first_tile + num_tiles * (split + 1) // num_splits
    blocks = find_blocks(table_ptr, begin_tile * TILE, num_keys, PAGE, TILE)
    for tile in range(begin_tile, end_tile):
        start = tile * TILE
        key = load_tile(keys_ptr, blocks, start, num_keys, KEY_STRIDES, KEY_DIM,
                        PADDED_KEY_DIM, PAGE, TILE, True)
        scores = score(query, key, slope, HAS_SOFTCAP)
        columns = start + tl.arange(0, TILE)[None, :]
        scores = tl.where((columns >= first_key) & (columns < num_keys), scores, float("-inf"))
        value = load_tile(values_ptr, blocks, start, num_keys, VALUE_STRIDES, VALUE_DIM,
                          PADDED_VALUE_DIM, PAGE, TILE, True)
        # Ahead of its use: the next tile's loads do not wait for it.
        blocks = find_blocks(table_ptr, start + TILE, num_keys, PAGE, TILE)
        total, row_max, row_sum = add_tile(scores, value, unit, total, row_max, row_sum)
    row_sum = tl.where(row_sum > 0, row_sum, 1)
    return total / row_sum[:, None], row_max + tl.log2(row_sum)


@triton.jit
def _join(
    averages_ptr, weights_ptr, first, step, num_splits,
    GROUP: tl.constexpr, PADDED_GROUP: tl.constexpr,
    DIM: tl.constexpr, PADDED_DIM: tl.constexpr, CHUNK: tl.constexpr,
):
    """The average [PADDED_GROUP, PADDED_DIM] of `num_splits` averages, each `step` from the last.

    The weights are log2 of what counts.
    """
    rows = tl.arange(0, PADDED_GROUP)
    dims = tl.arange(0, PADDED_DIM)
    is_row = rows < GROUP
    is_part = is_row[:, None] & (dims < DIM)[None, :]
    total = tl.zeros((PADDED_GROUP, PADDED_DIM), tl.float32)
    row_max = tl.full((PADDED_GROUP,), LOWEST, tl.float32)
    row_sum = tl.zeros((PADDED_GROUP,), tl.float32)
    for start in range(0, num_splits, CHUNK):
        splits = start + tl.arange(0, CHUNK)
        exists = splits < num_splits
        places = (first + splits * step)[:, None] * GROUP + rows[None, :]
        # Other processors wrote these: not from a cache of this one's own.
        logs = tl.load(weights_ptr + places, mask=exists[:, None] & is_row[None, :],
                       other=float("-inf"), cache_modifier=".cg")
        averages = tl.load(averages_ptr + places[:, :, None] * DIM + dims[None, None, :],
                           mask=exists[:, None, None] & is_part[None, :, :], other=0.0,
                           cache_modifier=".cg")
        new_max = tl.maximum(row_max, tl.max(logs, 0))
        weights = tl.exp2(logs - new_max[None, :])
        shrink = tl.exp2(row_max - new_max)
        row_sum = row_sum * shrink + tl.sum(weights, 0)
        total = total * shrink[:, None] + tl.sum(averages * weights[:, :, None], 0)
        row_max = new_max
    return total / row_sum[:, None]


@triton.jit(do_not_specialize=["num_requests", "num_spare"])
def _decode(
    out_ptr, query_ptr, keys_ptr, values_ptr, block_tables_ptr, context_lens_ptr,
    averages_ptr, weights_ptr, arrivals_ptr, num_requests, num_spare, slope, unit,
    query_stride, query_head_stride, table_stride,
    KEY_STRIDES: tl.constexpr, VALUE_STRIDES: tl.constexpr, HAS_SOFTCAP: tl.constexpr,
    WINDOW: tl.constexpr, PAGE: tl.constexpr, REQUESTS: tl.constexpr, GROUP: tl.constexpr,
    PADDED_GROUP: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr, CHUNK: tl.constexpr,
    KEY_DIM: tl.constexpr, PADDED_KEY_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr, PADDED_VALUE_DIM: tl.constexpr,
):
    """One split of one request, for the GROUP query heads of one KV head."""
    head, slot = tl.program_id(0), tl.program_id(1)
    num_heads = tl.num_programs(0)
    request, num_keys, num_splits, split = _find_split(
        context_lens_ptr, num_requests, num_spare, slot, WINDOW, TILE, REQUESTS)
    if request >= num_requests:
        return
    rows = tl.arange(0, ROWS)[:, None]
    key_dims = tl.arange(0, PADDED_KEY_DIM)[None, :]
    query = tl.load(
        query_ptr + request.to(tl.int64) * query_stride + (head * GROUP + rows) * query_head_stride
        + key_dims, mask=(rows < GROUP) & (key_dims < KEY_DIM), other=0.0)
    average, weight = _attend_split(
        query, keys_ptr + head * KEY_STRIDES[2], values_ptr + head * VALUE_STRIDES[2],
        block_tables_ptr + request.to(tl.int64) * table_stride, num_keys, num_splits, split,
        slope, unit, KEY_STRIDES, VALUE_STRIDES, HAS_SOFTCAP, WINDOW, PAGE, ROWS, TILE,
        KEY_DIM, PADDED_KEY_DIM, VALUE_DIM, PADDED_VALUE_DIM)

    dims = tl.arange(0, PADDED_VALUE_DIM)[None, :]
    is_mine = (rows < GROUP) & (dims < VALUE_DIM)
    out_ptr += (request.to(tl.int64) * num_heads + head) * GROUP * VALUE_DIM
    if num_splits == 1:
        tl.store(out_ptr + rows * VALUE_DIM + dims, average, mask=is_mine)
        return
    place = slot * num_heads + head
    tl.store(averages_ptr + (place * GROUP + rows) * VALUE_DIM + dims, average, mask=is_mine)
    row = tl.arange(0, ROWS)
    tl.store(weights_ptr + place * GROUP + row, weight, mask=row < GROUP)
    tl.debug_barrier()  # all threads have stored before one of them says so
    arrivals_ptr += request * num_heads + head
    if tl.atomic_add(arrivals_ptr, 1, sem="acq_rel") == num_splits - 1:
        tl.store(arrivals_ptr, 0)
        joined = _join(averages_ptr, weights_ptr, place - split * num_heads, num_heads,
                       num_splits, GROUP, PADDED_GROUP, VALUE_DIM, PADDED_VALUE_DIM, CHUNK)
        group = tl.arange(0, PADDED_GROUP)[:, None]
        tl.store(out_ptr + group * VALUE_DIM + dims, joined,
                 mask=(group < GROUP) & (dims < VALUE_DIM))


def decode(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, block_tables: torch.Tensor,
    context_lens: torch.Tensor, arrivals: torch.Tensor, scale: float, window: int | None,
    softcap: float | None, tuning: DecodeTuning,
) -> torch.Tensor:
    """`decode_attention` with a tuning of one's own."""
    num_requests, num_heads, key_dim = query.shape
    _, page, num_kv_heads, value_dim = values.shape
    group = num_heads // num_kv_heads
    num_spare = -(-_num_processors(query.device) * tuning.programs_per_processor // num_kv_heads)
    out = query.new_empty(num_requests, num_heads, value_dim)
    slots = num_requests + num_spare
    averages = query.new_empty(slots, num_heads, value_dim, dtype=torch.float32)
    weights = query.new_empty(slots, num_heads, dtype=torch.float32)
    slope, unit = score_units(scale, softcap)
    padded_group, padded_value_dim = (triton.next_power_of_2(n) for n in (group, value_dim))
    _decode[num_kv_heads, slots](
        out, query, keys, values, block_tables, context_lens, averages, weights, arrivals,
        num_requests, num_spare, slope, unit,
        query.stride(0), query.stride(1), block_tables.stride(0),
        KEY_STRIDES=keys.stride()[:3], VALUE_STRIDES=values.stride()[:3],
        HAS_SOFTCAP=softcap is not None, WINDOW=window or 0, PAGE=page,
        REQUESTS=_request_places(num_requests), GROUP=group, PADDED_GROUP=padded_group,
        ROWS=max(padded_group, MIN_ROWS), TILE=tuning.tile,
        CHUNK=max(JOINED_ELEMENTS // (padded_group * padded_value_dim), 1),
        KEY_DIM=key_dim, PADDED_KEY_DIM=triton.next_power_of_2(key_dim),
        VALUE_DIM=value_dim, PADDED_VALUE_DIM=padded_value_dim,
        num_warps=tuning.num_warps, num_stages=tuning.num_stages,
    )
    return out


@lru_cache
def _num_processors(device: torch.device) -> int:
    if device.type == "cpu":
        return CPU_PROCESSORS
    return torch.cuda.get_device_properties(device).multi_processor_count


def _request_places(num_requests: int) -> int:
    """A few powers of two, so that few kernels are compiled for all batch sizes."""
    return next((places for places in (32, 256) if num_requests <= places),
                triton.next_power_of_2(num_requests))


@torch.library.custom_op("tritonlm::decode_attention", mutates_args=())
def decode_attention(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, block_tables: torch.Tensor,
    context_lens: torch.Tensor, arrivals: torch.Tensor, scale: float,
    window: int | None = None, softcap: float | None = None,
) -> torch.Tensor:
    """Attend with `query` [B, heads, dim], each the last token of its request.

    The caches are [blocks, block size, KV heads, dim], block size a power of two, contiguous in
    dim alone; `block_tables` int32 [B, most blocks] and `context_lens` int32 [B] say what is in
    them, and are read on the device. `arrivals` int32 [at least B * KV heads] is zero before and
    after. Returns [B, heads, value dim]: zeros where the context is empty.
    """
    tuning = choose_tuning(keys.shape[3], values.shape[3], keys.dtype)
    return decode(query, keys, values, block_tables, context_lens, arrivals, scale, window,
                  softcap, tuning)


@decode_attention.register_fake
def _(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, block_tables: torch.Tensor,
    context_lens: torch.Tensor, arrivals: torch.Tensor, scale: float,
    window: int | None = None, softcap: float | None = None,
) -> torch.Tensor:
    return query.new_empty(*query.shape[:2], values.shape[3])


def choose_tuning(key_dim: int, value_dim: int, dtype: torch.dtype) -> DecodeTuning:
    """The fastest found on an H200, within the shared memory of a processor."""
    token_bytes = triton.next_power_of_2(key_dim + value_dim) * dtype.itemsize
    tile = min(max(TILE_BYTES // token_bytes, 16), 64)
    return DecodeTuning(tile=tile, num_warps=4, num_stages=3, programs_per_processor=4)
