"""Paged attention in plain PyTorch: runs anywhere, and is what kernels are tested against."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F

from tritonlm.engine.batch import Batch, Int32
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
    blocks: torch.Tensor
    """int32 [B * blocks that hold L keys]"""
    first_slot: int | None
    """Where the keys begin if they lie in one piece, as those of a single request may."""
    num_keys: int
    """L"""
    query_positions: Int32
    """[B, Q]"""
    needs_mask: bool
    """Whether some query is not to see all L keys, were there no window."""
    masks: dict[int | None, torch.Tensor | None] = field(default_factory=dict)

    def mask(self, window: int | None) -> torch.Tensor | None:
        """Which keys each query sees, bool [B, Q, L]: the last `window` ones if given.

        None if every query sees all of them.
        """
        if window not in self.masks:
            is_needed = self.needs_mask or (window is not None and window < self.num_keys)
            self.masks[window] = self._make_mask(window) if is_needed else None
        return self.masks[window]

    def _make_mask(self, window: int | None) -> torch.Tensor:
        device = self.blocks.device
        positions = torch.from_numpy(self.query_positions).to(device)
        behind = positions[:, :, None] - torch.arange(self.num_keys, device=device)
        is_seen = behind >= 0
        return is_seen if window is None else is_seen & (behind < window)

    def gather(self, cache: torch.Tensor, block_size: int) -> torch.Tensor:
        """The group's part of `cache`, [slots, heads, dim], as [B, L, heads, dim]."""
        if self.first_slot is not None:
            return cache[None, self.first_slot : self.first_slot + self.num_keys]
        shape = cache.shape[1:]
        gathered = cache.view(-1, block_size, *shape).index_select(0, self.blocks)
        return gathered.view(self.query_positions.shape[0], -1, *shape)[:, : self.num_keys]


class ReferenceAttention:
    """The attention of one step: built once, called by every layer."""

    def __init__(self, batch: Batch, cache: KVCache, block_size: int, device: torch.device) -> None:
        self._cache = cache
        self._block_size = block_size
        self._write_slots = torch.from_numpy(batch.slots).long().to(device)
        self._groups = _groups(batch, block_size, device)

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
        scale: float, window: int | None = None, softcap: float | None = None,
    ) -> torch.Tensor:
        """Store `key` and `value`, [T, KV heads, dim], then attend with `query`, [T, heads, dim].

        Returns [T, heads, value dim].
        """
        self._cache.write(layer, self._write_slots, key, value)
        outs = [self._attend(layer, group, query, scale, window, softcap)
                for group in self._groups]
        return outs[0] if len(outs) == 1 else torch.cat(outs)

    def _attend(
        self, layer: int, group: Group, query: torch.Tensor, scale: float, window: int | None,
        softcap: float | None,
    ) -> torch.Tensor:
        keys, values = (group.gather(cache[layer], self._block_size).to(query.dtype)
                        for cache in (self._cache.keys, self._cache.values))
        mine = query[group.queries].view(*group.query_positions.shape, *query.shape[1:])
        return attend(mine, keys, values, group.mask(window), scale, softcap).flatten(0, 1)


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None,
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
    if mask is not None:
        mask = mask[:, None, None].expand(-1, 1, num_shared, -1, -1).flatten(2, 3)
    out = _scaled_dot_product(folded, key.transpose(1, 2), value.transpose(1, 2), mask, scale,
                              softcap)
    return (out.view(num_requests, num_kv_heads, num_shared, num_queries, -1)
            .permute(0, 3, 1, 2, 4).reshape(num_requests, num_queries, num_heads, -1))


def _scaled_dot_product(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None,
    scale: float, softcap: float | None,
) -> torch.Tensor:
    if softcap is None:
        return F.scaled_dot_product_attention(query, key, value, mask, scale=scale)
    scores = softcap * torch.tanh(query @ key.transpose(-1, -2) * scale / softcap)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.float().softmax(dim=-1).to(value.dtype) @ value


def _groups(batch: Batch, block_size: int, device: torch.device) -> list[Group]:
    """Single-token requests together, as many as a gather may hold; each chunk on its own."""
    num_decodes, num_requests = batch.num_decodes, batch.rows.size
    context_lens = batch.context_lens.tolist()
    num_together = max(MAX_GATHERED_SLOTS // max(context_lens[:num_decodes], default=1), 1)
    bounds = [*range(0, num_decodes, num_together), *range(num_decodes, num_requests + 1)]
    return [_group(batch, start, end, context_lens[start:end], block_size, device)
            for start, end in pairwise(bounds)]


def _group(
    batch: Batch, start: int, end: int, context_lens: list[int], block_size: int,
    device: torch.device,
) -> Group:
    """Requests `start` to `end` of the batch, which have equally many queries."""
    if end <= batch.num_decodes:
        queries = slice(start, end)
    else:
        queries = slice(int(batch.query_starts[start]), int(batch.query_starts[end]))
    num_keys = max(context_lens)
    blocks = batch.block_tables[start:end, : -(-num_keys // block_size)].reshape(-1)
    query_positions = batch.positions[queries].reshape(end - start, -1)
    return Group(
        queries=queries,
        blocks=torch.from_numpy(blocks).to(device),
        first_slot=_first_slot(blocks, block_size) if end == start + 1 else None,
        num_keys=num_keys,
        query_positions=query_positions,
        needs_mask=query_positions.shape[1] > 1 or min(context_lens) < num_keys,
    )


def _first_slot(blocks: Int32, block_size: int) -> int | None:
    """Where `blocks` begin if each follows the one before."""
    first, last = int(blocks[0]), int(blocks[-1])
    is_whole = last - first == blocks.size - 1 and (np.diff(blocks) == 1).all()
    return first * block_size if is_whole else None
