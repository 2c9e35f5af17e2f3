"""The attention of a step on a GPU: our kernels over inputs that are on the device already."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tritonlm.engine.attention.cache_write import write_cache
from tritonlm.engine.attention.decode import cut_of, decode_attention
from tritonlm.engine.attention.prefill import prefill_attention
from tritonlm.engine.attention.splits import Cut, find_splits
from tritonlm.engine.cache import KVCache


@dataclass(frozen=True)
class PagedInputs:
    """Where the tokens of a step are, int32 on the device; read when the kernels run."""

    slots: torch.Tensor
    """Of each token in the cache, [T]; -1 for padding."""
    block_tables: torch.Tensor
    """[n, most blocks]"""
    context_lens: torch.Tensor
    """[n]; 0 for padding."""
    query_starts: torch.Tensor | None
    """[n + 1]; None when every request has one token."""


class PagedAttention:
    """Stores and attends for all layers of a step, with any number of requests."""

    def __init__(
        self, cache: KVCache, block_size: int, inputs: PagedInputs, arrivals: torch.Tensor
    ) -> None:
        """`arrivals` is scratch of the decode kernel, int32 zeros [n * KV heads]."""
        self._keys = {layer: keys.view(-1, block_size, *keys.shape[1:])
                      for layer, keys in cache.keys.items()}
        self._values = {layer: values.view(-1, block_size, *values.shape[1:])
                        for layer, values in cache.values.items()}
        self._inputs = inputs
        self._arrivals = arrivals
        self._splits: dict[Cut, torch.Tensor] = {}

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
        scale: float, window: int | None = None, softcap: float | None = None,
    ) -> torch.Tensor:
        """Store `key` and `value`, [T, KV heads, dim], then attend with `query`, [T, heads, dim].

        Returns [T, heads, value dim].
        """
        inputs, keys, values = self._inputs, self._keys[layer], self._values[layer]
        out: torch.Tensor
        if inputs.query_starts is None:
            splits = self._find_splits(cut_of(query, keys, values, window))
            out = decode_attention(query, key, value, keys, values, inputs.block_tables, splits,
                                   self._arrivals, scale, window, softcap)
        else:
            write_cache(keys, values, inputs.slots, key, value)
            out = prefill_attention(query, keys, values, inputs.block_tables, inputs.query_starts,
                                    inputs.context_lens, scale, window, softcap)
        return out

    def _find_splits(self, cut: Cut) -> torch.Tensor:
        if cut not in self._splits:
            self._splits[cut] = find_splits(self._inputs.context_lens, cut)
        return self._splits[cut]
