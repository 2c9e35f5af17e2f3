"""Speed of the attention kernels on this machine's GPU, next to what the GPU can do.

    python benchmarks/attention.py            one table: every kernel, its share of the ceiling
    python benchmarks/attention.py --sweep    also the fastest tunings of decode and prefill

Times are medians of CUDA graph replays. Each call in a graph has keys and values of its own, so
that the GPU's cache does not hold them.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from triton.runtime.errors import OutOfResources

from tritonlm.engine.attention.cache_write import write_cache
from tritonlm.engine.attention.decode import DecodeTuning, cut_of, decode, decode_attention
from tritonlm.engine.attention.prefill import PrefillTuning, prefill, prefill_attention
from tritonlm.engine.attention.splits import find_splits

DTYPE = torch.bfloat16
NUM_REPLAYS = 11
MOST_CALLS = 32
FEW_CALLS = 4
"""Of those that take long."""
CACHE_BYTES = 2 << 30
"""Of keys, and as many of values."""
BEST = 5
Tuning = TypeVar("Tuning", DecodeTuning, PrefillTuning)


@dataclass(frozen=True)
class Shape:
    """Heads of one attention layer."""

    name: str
    heads: int
    kv_heads: int
    dim: int


SHAPES = (Shape("Qwen3-0.6B", 16, 8, 128), Shape("Llama-3.1-8B", 32, 8, 128),
          Shape("Qwen2.5-7B", 28, 4, 128), Shape("Gemma-2-2B", 8, 4, 256))
DECODES = ((1, 640), (1, 32_768), (8, 640), (32, 640), (256, 640))
PREFILLS = ((16, 512), (1, 8192))
WRITES = (1, 256, 8192)
SDPA_BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cuDNN": SDPBackend.CUDNN_ATTENTION}
DECODE_TUNINGS = tuple(itertools.starmap(DecodeTuning, itertools.product(
    (16, 32, 64), (2, 4), (3, 4), (1, 2, 4))))
PREFILL_TUNINGS = tuple(itertools.starmap(PrefillTuning, itertools.product(
    (64, 128), (32, 64), (4, 8), (2, 3))))


@dataclass(frozen=True)
class Ceilings:
    """What the GPU reaches in the simplest work of each kind."""

    bytes_per_s: float
    flops_per_s: float


def _measure_ceilings() -> Ceilings:
    """A pass over 2 GiB that writes as much, and a product of two random matrices."""
    source = torch.randn(CACHE_BYTES // DTYPE.itemsize, dtype=DTYPE, device="cuda")
    target = torch.empty_like(source)
    size = 8192
    matrix = torch.randn(size, size, dtype=DTYPE, device="cuda")
    copy_s = _graph_time_s([lambda: torch.neg(source, out=target)] * 3)
    product_s = _graph_time_s([lambda: matrix @ matrix] * 5)
    return Ceilings(2 * source.nbytes / copy_s, 2 * size**3 / product_s)


def _graph_time_s(calls: Sequence[Callable[[], object]]) -> float:
    """Median time of one of `calls`, run one after the other in one CUDA graph."""
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    times_ms: list[float] = []
    for _ in range(NUM_REPLAYS):
        start, end = (torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
                      for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times_ms.append(start.elapsed_time(end))
    return statistics.median(times_ms) / 1e3 / len(calls)


class Cache:
    """Random keys and values of one layer shape, and blocks of it to hand out."""

    def __init__(self, shape: Shape, block_size: int) -> None:
        num_blocks = CACHE_BYTES // (block_size * shape.kv_heads * shape.dim * DTYPE.itemsize)
        self.block_size = block_size
        self.keys, self.values = (
            torch.randn(num_blocks, block_size, shape.kv_heads, shape.dim, dtype=DTYPE,
                        device="cuda") for _ in range(2))

    def block_tables(self, num_requests: int, context_len: int) -> tuple[torch.Tensor, ...]:
        """As many as there is place for, but no more than MOST_CALLS."""
        blocks = -(-context_len // self.block_size) * num_requests
        order = torch.randperm(self.keys.shape[0], dtype=torch.int32, device="cuda")
        num_tables = min(len(order) // blocks, MOST_CALLS)
        return order[: num_tables * blocks].view(num_tables, num_requests, -1).unbind()


def _queries(shape: Shape, num_tokens: int) -> torch.Tensor:
    """[num_tokens, heads, dim], part of what a fused projection makes."""
    fused = torch.randn(num_tokens, shape.heads + 2 * shape.kv_heads, shape.dim, dtype=DTYPE,
                        device="cuda")
    return fused[:, : shape.heads]


def _full(length: int, value: int) -> torch.Tensor:
    return torch.full((length,), value, dtype=torch.int32, device="cuda")


def _time_decode_s(
    shape: Shape, cache: Cache, batch: int, context_len: int, tuning: DecodeTuning | None = None,
) -> float:
    query, context_lens = _queries(shape, batch), _full(batch, context_len)
    new_keys, new_values = torch.randn(2, batch, shape.kv_heads, shape.dim, dtype=DTYPE,
                                       device="cuda")
    arrivals = _full(batch * shape.kv_heads, 0)
    splits = find_splits(context_lens, cut_of(query, cache.keys, cache.values, None, tuning))
    attend = decode_attention if tuning is None else partial(decode, tuning=tuning)

    def run(tables: torch.Tensor) -> None:
        attend(query, new_keys, new_values, cache.keys, cache.values, tables, splits, arrivals,
               scale=shape.dim**-0.5, window=None, softcap=None)

    return _graph_time_s([partial(run, tables)
                          for tables in cache.block_tables(batch, context_len)])


def _time_prefill_s(
    shape: Shape, cache: Cache, batch: int, length: int, tuning: PrefillTuning | None = None,
) -> float:
    query, context_lens = _queries(shape, batch * length), _full(batch, length)
    starts = torch.arange(batch + 1, dtype=torch.int32, device="cuda") * length
    attend = prefill_attention if tuning is None else partial(prefill, tuning=tuning)

    def run(tables: torch.Tensor) -> None:
        attend(query, cache.keys, cache.values, tables, starts, context_lens,
               scale=shape.dim**-0.5, window=None, softcap=None)

    return _graph_time_s([partial(run, tables)
                          for tables in cache.block_tables(batch, length)[:FEW_CALLS]])


def _time_sdpa_s(shape: Shape, batch: int, length: int, backend: SDPBackend) -> float:
    """PyTorch's attention over the same work, not paged."""
    query, key, value = (torch.randn(batch, heads, length, shape.dim, dtype=DTYPE, device="cuda")
                         for heads in (shape.heads, shape.kv_heads, shape.kv_heads))
    with sdpa_kernel(backend):
        return _graph_time_s([lambda: F.scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=True)] * FEW_CALLS)


def _time_write_s(shape: Shape, cache: Cache, num_tokens: int) -> float:
    fused = torch.randn(num_tokens, 2, shape.kv_heads, shape.dim, dtype=DTYPE, device="cuda")
    num_slots = cache.keys.shape[0] * cache.block_size
    slots = torch.randperm(num_slots, device="cuda")[:num_tokens].int()
    return _graph_time_s([lambda: write_cache(cache.keys, cache.values, slots,
                                             fused[:, 0], fused[:, 1])] * 16)


def _decode_bytes(shape: Shape, batch: int, context_len: int) -> int:
    return 2 * batch * context_len * shape.kv_heads * shape.dim * DTYPE.itemsize


def _prefill_flops(shape: Shape, batch: int, length: int) -> int:
    return 2 * batch * length * (length + 1) * shape.heads * shape.dim


def _print_row(
    kernel: str, shape: Shape, batch: int, length: int, time_s: float, amount: int, ceiling: float,
) -> None:
    rate = amount / time_s
    unit, scale = ("TFLOP/s", 1e12) if kernel.startswith("prefill") else ("GB/s", 1e9)
    print(f"{kernel:16} {shape.name:13} {batch:5} {length:7} {time_s * 1e6:10.1f} us"
          f" {rate / scale:8.0f} {unit:8} {rate / ceiling:4.0%}", flush=True)


def _print_table(shape: Shape, cache: Cache, ceilings: Ceilings) -> None:
    for batch, context_len in DECODES:
        _print_row("decode", shape, batch, context_len,
                   _time_decode_s(shape, cache, batch, context_len),
                   _decode_bytes(shape, batch, context_len), ceilings.bytes_per_s)
    for batch, length in PREFILLS:
        times_s = {"prefill": _time_prefill_s(shape, cache, batch, length)}
        for name, backend in SDPA_BACKENDS.items():
            times_s[f"prefill, {name}"] = _time_sdpa_s(shape, batch, length, backend)
        for kernel, time_s in times_s.items():
            _print_row(kernel, shape, batch, length, time_s,
                       _prefill_flops(shape, batch, length), ceilings.flops_per_s)
    for num_tokens in WRITES:
        _print_row("write", shape, num_tokens, 1, _time_write_s(shape, cache, num_tokens),
                   2 * _decode_bytes(shape, num_tokens, 1), ceilings.bytes_per_s)


def _sweep(shape: Shape, cache: Cache) -> None:
    for batch, context_len in DECODES:
        _print_fastest(f"decode {shape.name} {batch} x {context_len}", DECODE_TUNINGS,
                       partial(_time_decode_s, shape, cache, batch, context_len))
    for batch, length in PREFILLS:
        _print_fastest(f"prefill {shape.name} {batch} x {length}", PREFILL_TUNINGS,
                       partial(_time_prefill_s, shape, cache, batch, length))


def _print_fastest(
    title: str, tunings: Iterable[Tuning], time_s: Callable[[Tuning], float],
) -> None:
    """Of those that the GPU has the shared memory and registers for."""
    found: list[tuple[float, str]] = []
    for tuning in tunings:
        with suppress(OutOfResources):
            found.append((time_s(tuning), str(tuning)))
    print(title)
    for fastest_s, name in sorted(found)[:BEST]:
        print(f"  {fastest_s * 1e6:8.1f} us  {name}", flush=True)


def main() -> None:
    """Print the table, of all shapes or the first ones."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--sweep", action="store_true", help="time many tunings")
    parser.add_argument("--shapes", type=int, default=len(SHAPES), help="how many of the shapes")
    parser.add_argument("--block-size", type=int, default=64)
    arguments = parser.parse_args()
    ceilings = _measure_ceilings()
    print(f"read and write {ceilings.bytes_per_s / 1e12:.2f} TB/s,"
          f" product {ceilings.flops_per_s / 1e12:.0f} TFLOP/s")
    for shape in SHAPES[: arguments.shapes]:
        cache = Cache(shape, arguments.block_size)
        _print_table(shape, cache, ceilings)
        if arguments.sweep:
            _sweep(shape, cache)


if __name__ == "__main__":
    main()
