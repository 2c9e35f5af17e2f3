"""Attention of one token per request over its paged keys and values, spread over the device.

The token's own key and value are stored in the cache first. A program attends to one split of a
context; the one that finishes a request's last split joins the results of all of them.
"""
# Kernels are not Python: their arguments have no types that it knows.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
import triton.language as tl

from tritonlm.engine.attention.cache_write import store_newest
from tritonlm.engine.attention.splits import Cut, load_split
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

MIN_ROWS = 16
"""Fewest rows of a matrix product on the device."""
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


@torch.library.custom_op("tritonlm::decode_attention",
                         mutates_args=("keys", "values", "arrivals"))
def decode_attention(
    query: torch.Tensor, new_keys: torch.Tensor, new_values: torch.Tensor, keys: torch.Tensor,
    values: torch.Tensor, block_tables: torch.Tensor, splits: torch.Tensor,
    arrivals: torch.Tensor, scale: float, window: int | None = None, softcap: float | None = None,
) -> torch.Tensor:
    """Store the last token of each request and attend with it.

    `query` is [B, heads, dim], `new_keys` and `new_values` [B, KV heads, dim]. The caches are
    [blocks, block size, KV heads, dim], block size a power of two, contiguous in dim alone;
    `block_tables` int32 [B, most blocks] and `splits`, those of the contexts with the new tokens,
    as `cut_of` has them cut, say what is in them, and are read on the device. `arrivals` int32
    [at least B * KV heads] is zero before and after. Returns [B, heads, value dim]: zeros where
    the context is empty, and then nothing is stored.
    """
    layer = Layer.of(query, keys, values, window, softcap)
    return decode(query, new_keys, new_values, keys, values, block_tables, splits, arrivals,
                  scale, window, softcap, choose_tuning(layer, query.dtype))


@decode_attention.register_fake
def _(
    query: torch.Tensor, new_keys: torch.Tensor, new_values: torch.Tensor, keys: torch.Tensor,
    values: torch.Tensor, block_tables: torch.Tensor, splits: torch.Tensor,
    arrivals: torch.Tensor, scale: float, window: int | None = None, softcap: float | None = None,
) -> torch.Tensor:
    return query.new_empty(*query.shape[:2], values.shape[3])


def choose_tuning(layer: Layer, dtype: torch.dtype) -> DecodeTuning:
    """The fastest found on an H200."""
    if dtype.itemsize > 2:
        return DecodeTuning(tile=16, num_warps=4, num_stages=3, programs_per_processor=1)
    most_dims = max(layer.keys.padded_dim, layer.values.padded_dim)
    # More rows or dims are too much for the registers of two warps.
    num_warps = 2 if layer.group <= MIN_ROWS and most_dims <= 128 else 4
    return DecodeTuning(64 if most_dims <= 64 else 32, num_warps, num_stages=3,
                        programs_per_processor=1)


def cut_of(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, window: int | None = None,
    tuning: DecodeTuning | None = None,
) -> Cut:
    """How the splits are to be cut that `decode_attention` is given with these tensors."""
    if tuning is None:
        tuning = choose_tuning(Layer.of(query, keys, values, window, None), query.dtype)
    num_programs = _num_processors(query.device) * tuning.programs_per_processor
    return Cut(tuning.tile, window or 0, -(-num_programs // keys.shape[2]))


def decode(
    query: torch.Tensor, new_keys: torch.Tensor, new_values: torch.Tensor, keys: torch.Tensor,
    values: torch.Tensor, block_tables: torch.Tensor, splits: torch.Tensor,
    arrivals: torch.Tensor, scale: float, window: int | None, softcap: float | None,
    tuning: DecodeTuning,
) -> torch.Tensor:
    """`decode_attention` with a tuning of one's own."""
    layer = Layer.of(query, keys, values, window, softcap)
    num_requests, num_heads, _ = query.shape
    num_kv_heads, num_splits = keys.shape[2], splits.shape[0]
    out = query.new_empty(num_requests, num_heads, layer.values.dim)
    averages = query.new_empty(num_splits, num_heads, layer.values.dim, dtype=torch.float32)
    weights = query.new_empty(num_splits, num_heads, dtype=torch.float32)
    _decode[num_kv_heads, num_splits](
        out, query, new_keys, new_values, keys, values, block_tables, splits, averages,
        weights, arrivals, num_requests, *score_units(scale, softcap),
        query.stride(0), query.stride(1), *new_keys.stride(), *new_values.stride(),
        block_tables.stride(0),
        LAYER=layer, ROWS=max(layer.padded_group, MIN_ROWS), TILE=tuning.tile,
        CHUNK=max(JOINED_ELEMENTS // (layer.padded_group * layer.values.padded_dim), 1),
        num_warps=tuning.num_warps, num_stages=tuning.num_stages,
    )
    return out


@lru_cache
def _num_processors(device: torch.device) -> int:
    if device.type == "cpu":
        return CPU_PROCESSORS
    return torch.cuda.get_device_properties(device).multi_processor_count


@triton.jit(do_not_specialize=["num_requests"])
def _decode(
    out_ptr, query_ptr, new_keys_ptr, new_values_ptr, keys_ptr, values_ptr, block_tables_ptr,
    splits_ptr, averages_ptr, weights_ptr, arrivals_ptr, num_requests, slope, unit, query_stride,
    query_head_stride, new_key_stride, new_key_head_stride, new_key_dim_stride, new_value_stride,
    new_value_head_stride, new_value_dim_stride, table_stride,
    LAYER: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr, CHUNK: tl.constexpr,
):
    """One split of one request, for the query heads of one KV head."""
    KEYS: tl.constexpr = LAYER.keys
    VALUES: tl.constexpr = LAYER.values
    head, place = tl.program_id(0), tl.program_id(1)
    num_heads = tl.num_programs(0)
    request, num_keys, num_splits, split = load_split(splits_ptr, place)
    if request >= num_requests:
        return
    wide_request = request.to(tl.int64)
    rows = tl.arange(0, ROWS)
    is_mine = rows < LAYER.group
    query = load_rows(
        query_ptr + wide_request * query_stride, (head * LAYER.group + rows) * query_head_stride,
        is_mine, LAYER.keys.dim, LAYER.keys.padded_dim)
    table_ptr = block_tables_ptr + wide_request * table_stride
    keys_ptr += head * KEYS.head_stride
    values_ptr += head * VALUES.head_stride
    if (split == num_splits - 1) & (num_keys > 0):
        new_keys_ptr += wide_request * new_key_stride + head * new_key_head_stride
        new_values_ptr += wide_request * new_value_stride + head * new_value_head_stride
        store_newest(keys_ptr, new_keys_ptr, new_key_dim_stride, table_ptr, num_keys, KEYS)
        store_newest(values_ptr, new_values_ptr, new_value_dim_stride, table_ptr, num_keys,
                      VALUES)
        tl.debug_barrier()  # all threads see what each of them has stored
    average, weight = _attend_split(query, keys_ptr, values_ptr, table_ptr, num_keys, num_splits,
                                    split, slope, unit, LAYER, ROWS, TILE)
    out_ptr += (wide_request * num_heads + head) * LAYER.group * LAYER.values.dim
    if num_splits == 1:
        store_rows(out_ptr, rows * VALUES.dim, is_mine, average, VALUES.dim, VALUES.padded_dim)
        return
    part = place * num_heads + head
    _store_part(averages_ptr, weights_ptr, part, average, weight, LAYER, ROWS)
    if _is_last(arrivals_ptr + request * num_heads + head, num_splits):
        _join(out_ptr, averages_ptr, weights_ptr, part - split * num_heads, num_heads, num_splits,
              LAYER, CHUNK)


@triton.jit
def _attend_split(
    query, keys_ptr, values_ptr, table_ptr, num_keys, num_splits, split, slope, unit,
    LAYER: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr,
):
    """Attention over one split: averages [ROWS, padded value dim], log2 of their weights [ROWS]."""
    KEYS: tl.constexpr = LAYER.keys
    VALUES: tl.constexpr = LAYER.values
    DIM: tl.constexpr = VALUES.padded_dim
    first_key = 0
    if LAYER.window > 0:
        first_key = tl.maximum(num_keys - LAYER.window, 0)
    first_tile = first_key // TILE
    num_tiles = tl.cdiv(num_keys, TILE) - first_tile
    begin_tile = first_tile + num_tiles * split // num_splits
    end_tile = first_tile + num_tiles * (split + 1) // num_splits
    total = tl.zeros((ROWS, DIM), tl.float32)
    row_max = tl.full((ROWS,), LOWEST, tl.float32)
    row_sum = tl.zeros((ROWS,), tl.float32)
    blocks = find_blocks(table_ptr, begin_tile * TILE, num_keys, KEYS, TILE)
    for tile in range(begin_tile, end_tile):
        start = tile * TILE
        key = load_tile(keys_ptr, blocks, start, num_keys, KEYS, TILE, True)
        scores = score(query, key.to(query.dtype), slope, LAYER.is_capped)
        columns = start + tl.arange(0, TILE)[None, :]
        scores = tl.where((columns >= first_key) & (columns < num_keys), scores, float("-inf"))
        value = load_tile(values_ptr, blocks, start, num_keys, VALUES, TILE, True)
        value = value.to(query.dtype)
        # Ahead of its use: the next tile's loads do not wait for it.
        blocks = find_blocks(table_ptr, start + TILE, num_keys, KEYS, TILE)
        total, row_max, row_sum = add_tile(scores, value, unit, total, row_max, row_sum)
    row_sum = tl.where(row_sum > 0, row_sum, 1)
    return total / row_sum[:, None], row_max + tl.log2(row_sum)


@triton.jit
def _store_part(
    averages_ptr, weights_ptr, part, average, weight, LAYER: tl.constexpr, ROWS: tl.constexpr,
):
    """Keep what `_attend_split` has made of a split, for `_join`."""
    rows = tl.arange(0, ROWS)
    is_mine = rows < LAYER.group
    store_rows(averages_ptr, (part * LAYER.group + rows) * LAYER.values.dim, is_mine, average,
               LAYER.values.dim, LAYER.values.padded_dim)
    tl.store(weights_ptr + part * LAYER.group + rows, weight, mask=is_mine)


@triton.jit
def _is_last(arrivals_ptr, num_splits):
    """Count this program, which has stored its results; true for the last one, which resets."""
    tl.debug_barrier()  # all threads have stored before one of them says so
    is_last = tl.atomic_add(arrivals_ptr, 1, sem="acq_rel") == num_splits - 1
    if is_last:
        tl.store(arrivals_ptr, 0)
    return is_last


@triton.jit
def _join(
    out_ptr, averages_ptr, weights_ptr, first, step, num_splits,
    LAYER: tl.constexpr, CHUNK: tl.constexpr,
):
    """Write the average of all splits' averages, `step` from one to the next."""
    ROWS: tl.constexpr = LAYER.padded_group
    DIM: tl.constexpr = LAYER.values.padded_dim
    rows = tl.arange(0, ROWS)
    dims = tl.arange(0, DIM)
    is_row = rows < LAYER.group
    is_element = is_row[:, None] & (dims < LAYER.values.dim)[None, :]
    total = tl.zeros((ROWS, DIM), tl.float32)
    row_max = tl.full((ROWS,), LOWEST, tl.float32)
    row_sum = tl.zeros((ROWS,), tl.float32)
    for start in range(0, num_splits, CHUNK):
        splits = start + tl.arange(0, CHUNK)
        exists = splits < num_splits
        places = (first + splits * step)[:, None] * LAYER.group + rows[None, :]
        # Other processors wrote these: not from a cache of this one's own.
        logs = tl.load(weights_ptr + places, mask=exists[:, None] & is_row[None, :],
                       other=float("-inf"), cache_modifier=".cg")
        averages = tl.load(averages_ptr + places[:, :, None] * LAYER.values.dim + dims,
                           mask=exists[:, None, None] & is_element[None, :, :], other=0.0,
                           cache_modifier=".cg")
        new_max = tl.maximum(row_max, tl.max(logs, 0))
        weights = tl.exp2(logs - new_max[None, :])
        shrink = tl.exp2(row_max - new_max)
        row_sum = row_sum * shrink + tl.sum(weights, 0)
        total = total * shrink[:, None] + tl.sum(averages * weights[:, :, None], 0)
        row_max = new_max
    store_rows(out_ptr, rows * LAYER.values.dim, is_row, total / row_sum[:, None],
               LAYER.values.dim, LAYER.values.padded_dim)
