"""A paged cache with known contents, and what attention over it should give.

It is on the GPU if there is one. Memory is NaN wherever nothing has been written.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch

from tritonlm.engine.attention.reference import attend
from tritonlm.engine.cache import FP8

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
NO_BLOCK = 2**30


@dataclass(frozen=True)
class Layer:
    """Shapes and options of one attention layer."""

    heads: int
    kv_heads: int
    key_dim: int
    value_dim: int
    block_size: int = 16
    window: int | None = None
    softcap: float | None = None
    dtype: torch.dtype = torch.float32
    cache_dtype: torch.dtype | None = None
    """None: as `dtype`. What is stored has no more digits than it: so the cache loses none."""

    @property
    def scale(self) -> float:
        return self.key_dim**-0.5

    @property
    def options(self) -> tuple[float, int | None, float | None]:
        return self.scale, self.window, self.softcap


class PagedCache:
    """A cache with the keys and values of some requests, in blocks strewn over it."""

    def __init__(self, layer: Layer, context_lens: list[int], is_heads_first: bool = False) -> None:
        self.layer, self.context_lens = layer, context_lens
        num_blocks = [-(-length // layer.block_size) for length in context_lens]
        self.keys = self._empty(sum(num_blocks) + 3, layer.key_dim, is_heads_first)
        self.values = self._empty(sum(num_blocks) + 3, layer.value_dim, is_heads_first)
        self.contents = [(self._random(length, layer.key_dim),
                          self._random(length, layer.value_dim)) for length in context_lens]
        self.block_tables = torch.full((len(context_lens), max(num_blocks) + 2), NO_BLOCK,
                                       dtype=torch.int32, device=DEVICE)
        blocks = torch.randperm(self.keys.shape[0], device=DEVICE)
        for row, mine in enumerate(blocks[:sum(num_blocks)].split(num_blocks)):
            self.block_tables[row, : len(mine)] = mine
            slots = self.slots(row)
            for cache, content in zip((self.keys, self.values), self.contents[row], strict=True):
                places = slots // layer.block_size, slots % layer.block_size
                bits(cache)[places] = bits(content.to(cache.dtype))

    def _empty(self, num_blocks: int, dim: int, is_heads_first: bool) -> torch.Tensor:
        shape = [num_blocks, self.layer.block_size, self.layer.kv_heads, dim]
        if is_heads_first:
            shape[1:3] = shape[2:0:-1]
        cache_dtype = self.layer.cache_dtype or self.layer.dtype
        cache = torch.full(shape, torch.nan, device=DEVICE).to(cache_dtype)
        return cache.transpose(1, 2) if is_heads_first else cache

    def _random(self, length: int, dim: int) -> torch.Tensor:
        layer = self.layer
        vectors = random(length, layer.kv_heads, dim, dtype=layer.dtype)
        return vectors.to(layer.cache_dtype or layer.dtype).to(layer.dtype)

    def slots(self, row: int) -> torch.Tensor:
        places = torch.arange(self.context_lens[row], device=DEVICE)
        size = self.layer.block_size
        return self.block_tables[row, places // size].long() * size + places % size

    @property
    def device_context_lens(self) -> torch.Tensor:
        return torch.tensor(self.context_lens, dtype=torch.int32, device=DEVICE)

    def expected(self, query: torch.Tensor, num_queries: list[int]) -> torch.Tensor:
        """What the last tokens of each request should get, in float64."""
        return torch.cat([
            self._expected_row(row, mine)
            for row, mine in enumerate(query.double().split(num_queries))])

    def _expected_row(self, row: int, query: torch.Tensor) -> torch.Tensor:
        layer, (keys, values) = self.layer, self.contents[row]
        if not len(keys):
            return query.new_zeros(*query.shape[:2], layer.value_dim)
        behind = (torch.arange(len(keys) - len(query), len(keys), device=DEVICE)[:, None]
                  - torch.arange(len(keys), device=DEVICE))
        mask = (behind >= 0) & (behind < (layer.window or len(keys)))
        return attend(query[None], keys[None].double(), values[None].double(), mask[None],
                      layer.scale, layer.softcap)[0]


def bits(cache: torch.Tensor) -> torch.Tensor:
    """The same, as numbers that everything works with; NaN is what it was."""
    return cache.view(torch.uint8) if cache.dtype == FP8 else cache


def random(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(*shape, device=DEVICE).to(dtype)


def random_queries(layer: Layer, num_tokens: int) -> torch.Tensor:
    """[num_tokens, heads, key dim], a view of a wider tensor."""
    fused = random(num_tokens, (layer.heads + 3) * layer.key_dim, dtype=layer.dtype)
    return fused[:, layer.key_dim:][:, : layer.heads * layer.key_dim].unflatten(
        1, (layer.heads, layer.key_dim))


def new_arrivals(cache: PagedCache) -> torch.Tensor:
    return torch.zeros(len(cache.context_lens) * cache.layer.kv_heads, dtype=torch.int32,
                       device=DEVICE)


def starts(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=DEVICE)
