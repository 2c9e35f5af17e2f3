"""Paged attention in plain PyTorch: runs anywhere, and is what kernels are tested against."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F

from tritonlm.engine.batch import Batch
from tritonlm.engine.cache import KVCache

MAX_GATHERED_SLOTS = 1 << 20
"""Keys that one gather copies: bounds the memory of a step with many long requests."""


@dataclass
class Group:
    """Requests with the same number of queries, attended to in one call.

    B requests with Q queries each, their contexts padded to L keys.
    """

    queries: slice
    """Their tokens among the T of the batch."""
    slots: torch.Tensor
    """int64 [B, L]"""
    query_positions: torch.Tensor
    """int64 [B, Q]"""
    masks: dict[int | None, torch.Tensor] = field(default_factory=dict)

    def mask(self, window: int | None) -> torch.Tensor:
        """Which keys each query sees, bool [B, Q, L]; the last `window` ones if given."""
        if window not in self.masks:
            keys = torch.arange(self.slots.shape[1], device=self.slots.device)
            behind = self.query_positions[:, :, None] - keys
            is_seen = behind >= 0
            self.masks[window] = is_seen if window is None else is_seen & (behind < window)
        return self.masks[window]


class ReferenceAttention:
    """The attention of one step: built once, called by every layer."""

    def __init__(self, batch: Batch, cache: KVCache, block_size: int, device: torch.device) -> None:
        self._cache = cache
        self._write_slots = torch.from_numpy(batch.slots).long().to(device)
        self._groups = list(_groups(batch, block_size, device))

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
        scale: float, window: int | None = None, softcap: float | None = None,
    ) -> torch.Tensor:
        """Store `key` and `value`, [T, KV heads, dim], then attend with `query`, [T, heads, dim].

        Returns [T, heads, value dim].
        """
        self._cache.write(layer, self._write_slots, key, value)
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        out = query.new_empty(*query.shape[:2], values.shape[-1])
        for group in self._groups:
            num_requests, num_queries = group.query_positions.shape
            mine = query[group.queries].view(num_requests, num_queries, *query.shape[1:])
            out[group.queries] = attend(
                mine, keys[group.slots], values[group.slots], group.mask(window), scale, softcap,
            ).flatten(0, 1)
        return out


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor,
    scale: float, softcap: float | None,
) -> torch.Tensor:
    """Attention of `query` [B, Q, H, D] to `key`, `value` [B, L, KV heads, dim] under `mask`.

    The query heads that share a KV head are folded into the queries, so that no key is copied.
    Returns [B, Q, H, value dim].
    """
    num_requests, num_queries, num_heads, _ = query.shape
    num_kv_heads = key.shape[2]
    num_shared = num_heads // num_kv_heads
    folded = (query.view(num_requests, num_queries, num_kv_heads, num_shared, -1)
              .permute(0, 2, 3, 1, 4).flatten(2, 3))
    folded_mask = mask[:, None, None].expand(-1, 1, num_shared, -1, -1).flatten(2, 3)
    out = _scaled_dot_product(folded, key.transpose(1, 2), value.transpose(1, 2), folded_mask,
                              scale, softcap)
    return (out.view(num_requests, num_kv_heads, num_shared, num_queries, -1)
            .permute(0, 3, 1, 2, 4).reshape(num_requests, num_queries, num_heads, -1))


def _scaled_dot_product(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor,
    scale: float, softcap: float | None,
) -> torch.Tensor:
    if softcap is None:
        return F.scaled_dot_product_attention(query, key, value, mask, scale=scale)
    scores = softcap * torch.tanh(query @ key.transpose(-1, -2) * scale / softcap)
    scores = scores.masked_fill(~mask, -torch.inf)
    return scores.float().softmax(dim=-1).to(value.dtype) @ value


def _groups(batch: Batch, block_size: int, device: torch.device) -> list[Group]:
    """Single-token requests together, as many as a gather may hold; each chunk on its own."""
    most_keys = int(batch.context_lens[: batch.num_decodes].max(initial=1))
    num_together = max(MAX_GATHERED_SLOTS // most_keys, 1)
    bounds = list(range(0, batch.num_decodes, num_together))
    bounds += range(batch.num_decodes, batch.rows.size + 1)
    return [_group(batch, start, end, block_size, device)
            for start, end in pairwise(bounds)]


def _group(batch: Batch, start: int, end: int, block_size: int, device: torch.device) -> Group:
    """Requests `start` to `end` of the batch, which have equally many queries."""
    starts = batch.query_starts
    queries = slice(int(starts[start]), int(starts[end]))
    num_keys = int(batch.context_lens[start:end].max())
    keys = np.arange(num_keys)
    slots = batch.block_tables[start:end, keys // block_size] * block_size + keys % block_size
    return Group(
        queries=queries,
        slots=torch.from_numpy(slots).long().to(device),
        query_positions=torch.from_numpy(batch.positions[queries]).long().to(device)
        .view(end - start, -1),
    )
