"""The kernels against attention in float64 on unpaged keys and values.

They run on the GPU if there is one, else in Triton's interpreter, with shorter contexts.
Memory is full of NaN wherever nothing has been written: in the cache, in outputs, in scratch.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from paged_cache import (
    DEVICE,
    ON_GPU,
    Layer,
    PagedCache,
    bits,
    new_arrivals,
    random,
    random_queries,
    starts,
)

from tritonlm.engine.cache import FP8

pytest.importorskip("triton")

from tritonlm.engine.attention.cache_write import write_cache
from tritonlm.engine.attention.decode import DecodeTuning, cut_of, decode, decode_attention
from tritonlm.engine.attention.prefill import (
    PrefillTuning,
    choose_tuning,
    prefill,
    prefill_attention,
)
from tritonlm.engine.attention.splits import Cut, find_splits
from tritonlm.engine.attention.tile import Layer as KernelLayer

LENGTH_FACTOR = 30 if ON_GPU else 1
MOST_ERROR = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
SHAPES = {
    "one head": (1, 1, 16, 16, 16),
    "a KV head each": (4, 4, 64, 64, 16),
    "two heads share": (4, 2, 128, 128, 64),
    "three heads share": (6, 2, 96, 64, 16),
    "eight heads share": (8, 1, 80, 80, 64),
    "wide": (2, 1, 256, 256, 16),
}
VARIANTS = {
    "plain": {},
    "window": {"window": 24},
    "softcap": {"softcap": 1.5},
    "window, softcap": {"window": 70, "softcap": 1.5},
    "float16": {"dtype": torch.float16},
    "8 bits": {"dtype": torch.float16, "cache_dtype": FP8},
}
if ON_GPU:  # the interpreter multiplies bfloat16 as if it were integers
    VARIANTS["bfloat16"] = {"dtype": torch.bfloat16}
LAYERS = [pytest.param(Layer(*shape, **variant), id=f"{name}, {variant_name}")
          for (name, shape), (variant_name, variant) in itertools.product(
              SHAPES.items(), VARIANTS.items())]
HALF_LAYER = Layer(4, 2, 64, 64, dtype=torch.bfloat16 if ON_GPU else torch.float16)

pytestmark = [
    pytest.mark.usefixtures("unwritten_memory_is_nan", "same_numbers"),
    pytest.mark.filterwarnings("ignore:invalid value encountered in divide")]
"""In rows that are not stored; only the interpreter, which runs on numpy, has warnings."""


def take_newest(cache: PagedCache) -> tuple[torch.Tensor, torch.Tensor]:
    """The last key and value of each request, which are in the cache no more; views."""
    layer = cache.layer
    fused = random(len(cache.context_lens), layer.kv_heads, layer.key_dim + layer.value_dim + 8,
                   dtype=layer.dtype)
    new_keys, new_values = fused[..., : layer.key_dim], fused[..., 8 + layer.key_dim :]
    for row, (keys, values) in enumerate(cache.contents):
        if len(keys):
            new_keys[row], new_values[row] = keys[-1], values[-1]
            block, place = divmod(int(cache.slots(row)[-1]), layer.block_size)
            for stored in (cache.keys, cache.values):
                bits(stored)[block, place] = bits(torch.full((1,), torch.nan).to(stored.dtype))
    return new_keys, new_values


def run_decode(cache: PagedCache, query: torch.Tensor) -> torch.Tensor:
    arrivals = new_arrivals(cache)
    before = cache.keys.clone(), cache.values.clone()
    new_keys, new_values = take_newest(cache)
    splits = find_splits(cache.device_context_lens,
                         cut_of(query, cache.keys, cache.values, cache.layer.window))
    out = decode_attention(query, new_keys, new_values, cache.keys, cache.values,
                           cache.block_tables, splits, arrivals, *cache.layer.options)
    assert not arrivals.any()
    for stored, old in zip((cache.keys, cache.values), before, strict=True):
        assert torch.equal(bits(stored).nan_to_num(9.5), bits(old).nan_to_num(9.5))
    return out


def run_prefill(cache: PagedCache, query: torch.Tensor, num_queries: list[int]) -> torch.Tensor:
    return prefill_attention(query, cache.keys, cache.values, cache.block_tables,
                             starts(num_queries), cache.device_context_lens, *cache.layer.options)


def assert_close(out: torch.Tensor, expected: torch.Tensor) -> None:
    error = (out.double() - expected).norm() / expected.norm()
    assert error < MOST_ERROR[out.dtype]


@pytest.mark.parametrize("layer", LAYERS)
def test_decode(layer: Layer) -> None:
    cache = PagedCache(layer, [1, 16 * LENGTH_FACTOR, 17 * LENGTH_FACTOR, 0, 83 * LENGTH_FACTOR])
    query = random_queries(layer, 5)
    assert_close(run_decode(cache, query), cache.expected(query, [1] * 5))


@pytest.mark.parametrize("layer", LAYERS)
def test_prefill(layer: Layer) -> None:
    num_queries = [1, 37, 16 * LENGTH_FACTOR, 1]
    cache = PagedCache(layer, [1, 37, 50 * LENGTH_FACTOR, 33])
    query = random_queries(layer, sum(num_queries))
    assert_close(run_prefill(cache, query, num_queries), cache.expected(query, num_queries))


@pytest.mark.parametrize("num_requests", [1, 33])
def test_decode_batch_sizes(num_requests: int) -> None:
    cache = PagedCache(HALF_LAYER, [(7 * row + 3) % 61 for row in range(num_requests)])
    query = random_queries(HALF_LAYER, num_requests)
    assert_close(run_decode(cache, query), cache.expected(query, [1] * num_requests))


def test_a_long_context_among_short_ones_is_split() -> None:
    cache = PagedCache(HALF_LAYER, [5, 700 * LENGTH_FACTOR, 3, 1])
    query = random_queries(HALF_LAYER, 4)
    assert_close(run_decode(cache, query), cache.expected(query, [1] * 4))


@pytest.mark.parametrize("tile", [16, 32])
@pytest.mark.parametrize("programs_per_processor", [1, 2, 64])
def test_decode_is_the_same_however_it_is_cut(tile: int, programs_per_processor: int) -> None:
    layer = Layer(8, 2, 32, 32, window=150)
    cache = PagedCache(layer, [200, 0, 31])
    query = random_queries(layer, 3)
    arrivals = new_arrivals(cache)
    tuning = DecodeTuning(tile, 4, 2, programs_per_processor)
    splits = find_splits(cache.device_context_lens,
                         cut_of(query, cache.keys, cache.values, layer.window, tuning))
    for _ in range(2):
        out = decode(query, *take_newest(cache), cache.keys, cache.values, cache.block_tables,
                     splits, arrivals, *layer.options, tuning)
        assert_close(out, cache.expected(query, [1] * 3))


@pytest.mark.parametrize("tile", [16, 64])
@pytest.mark.parametrize("rows", [16, 32])
def test_prefill_is_the_same_however_it_is_cut(rows: int, tile: int) -> None:
    layer = Layer(6, 2, 32, 32, window=40)
    cache = PagedCache(layer, [90, 20, 64])
    num_queries = [33, 20, 7]
    query = random_queries(layer, 60)
    out = prefill(query, cache.keys, cache.values, cache.block_tables, starts(num_queries),
                  cache.device_context_lens, *layer.options, PrefillTuning(rows, tile, 4, 2))
    assert_close(out, cache.expected(query, num_queries))


def test_prefill_starts_at_any_place_of_a_tile() -> None:
    layer = Layer(2, 1, 16, 16)
    context_lens = list(range(2, 36))
    num_queries = [2] * len(context_lens)
    cache = PagedCache(layer, context_lens)
    query = random_queries(layer, sum(num_queries))
    out = prefill(query, cache.keys, cache.values, cache.block_tables, starts(num_queries),
                  cache.device_context_lens, *layer.options, PrefillTuning(16, 16, 4, 2))
    assert_close(out, cache.expected(query, num_queries))


def test_prefill_leaves_out_requests_and_tokens_of_padding() -> None:
    cache = PagedCache(HALF_LAYER, [20, 9, 0, 0])
    num_queries = [20, 4, 0, 0]
    query = random_queries(HALF_LAYER, 40)
    out = run_prefill(cache, query, num_queries)
    assert_close(out[:24], cache.expected(query[:24], num_queries))
    assert out[24:].isnan().all()


@pytest.mark.parametrize("device_bytes", [232_448, 166_912, 101_376])
@pytest.mark.parametrize("dim", [64, 80, 128, 256])
def test_prefill_fits_the_shared_memory_of_the_device(dim: int, device_bytes: int) -> None:
    layer = Layer(2, 1, dim, dim)
    cache = PagedCache(layer, [1])
    shapes = KernelLayer.of(random_queries(layer, 1), cache.keys, cache.values, None, None)
    for dtype in (torch.bfloat16, torch.float32):
        tuning = choose_tuning(shapes, dtype, device_bytes)
        assert tuning.shared_bytes(shapes, dtype) <= device_bytes


def test_a_cache_with_heads_first() -> None:
    layer = Layer(4, 2, 64, 64)
    cache = PagedCache(layer, [70, 18], is_heads_first=True)
    query = random_queries(layer, 12)
    assert_close(run_prefill(cache, query, [10, 2]), cache.expected(query, [10, 2]))
    assert_close(run_decode(cache, query[:2]), cache.expected(query[:2], [1, 1]))


def _step(
    query: torch.Tensor, new_keys: torch.Tensor, new_values: torch.Tensor, keys: torch.Tensor,
    values: torch.Tensor, slots: torch.Tensor, block_tables: torch.Tensor,
    query_starts: torch.Tensor, context_lens: torch.Tensor, arrivals: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One query per request, through both kernels."""
    splits = find_splits(context_lens, cut_of(query, keys, values))
    decoded = decode_attention(query + 1, new_keys * 2, new_values * 2, keys, values,
                               block_tables, splits, arrivals, 0.1)
    write_cache(keys, values, slots, new_keys * 3, new_values * 3)
    return decoded, prefill_attention(query + 1, keys, values, block_tables, query_starts,
                                      context_lens, 0.1)


def _step_arguments(cache: PagedCache) -> tuple[torch.Tensor, ...]:
    """Each request's last key and value are written anew."""
    layer, num_requests = cache.layer, len(cache.context_lens)
    slots = torch.stack([cache.slots(row)[-1] for row in range(num_requests)])
    return (random_queries(layer, num_requests),
            *(random(num_requests, layer.kv_heads, dim, dtype=layer.dtype)
              for dim in (layer.key_dim, layer.value_dim)),
            cache.keys, cache.values, slots, cache.block_tables, starts([1] * num_requests),
            cache.device_context_lens, new_arrivals(cache))


def test_compiled_in_one_piece_it_still_writes_in_place() -> None:
    cache = PagedCache(HALF_LAYER, [40, 17, 3])
    arguments = _step_arguments(cache)
    expected = _step(*arguments)
    for row in range(3):
        cache.keys[cache.slots(row)[-1] // 16, cache.slots(row)[-1] % 16] = torch.nan
    compiled = torch.compile(_step, fullgraph=True, backend="inductor" if ON_GPU else "aot_eager")
    for out, right in zip(compiled(*arguments), expected, strict=True):
        assert torch.equal(out, right)


@pytest.mark.parametrize("operator", [write_cache, decode_attention, prefill_attention])
def test_fake_tensors_and_schemas_are_true(operator: torch.library.CustomOpDef) -> None:
    layer = Layer(4, 2, 32, 16)
    cache = PagedCache(layer, [20, 5])
    query = random_queries(layer, 2)
    arguments = {
        write_cache: (cache.keys, cache.values, torch.tensor([3, 40], device=DEVICE),
                      *(random(2, 2, dim, dtype=layer.dtype) for dim in (32, 16))),
        decode_attention: (query, *take_newest(cache), cache.keys, cache.values,
                           cache.block_tables,
                           find_splits(cache.device_context_lens, Cut(16, 0, 3)),
                           new_arrivals(cache), 0.1),
        prefill_attention: (query, cache.keys, cache.values, cache.block_tables, starts([1, 1]),
                            cache.device_context_lens, 0.1),
    }[operator]
    torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.skipif(not ON_GPU, reason="a CUDA graph needs a GPU")
def test_a_captured_step_suits_any_lengths() -> None:
    cache = PagedCache(HALF_LAYER, [900, 17, 640, 64])
    arguments = _step_arguments(cache)
    context_lens = arguments[8]
    full = context_lens.clone()
    context_lens.fill_(1)
    _step(*arguments)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = _step(*arguments)
    for lengths in (full, full // 2, torch.zeros_like(full), full):
        context_lens.copy_(lengths)
        graph.replay()
        for out, right in zip(captured, _step(*arguments), strict=True):
            assert torch.equal(out[lengths > 0], right[lengths > 0])
