"""A step's numbers on their way to the GPU: one copy, from memory that the device reads itself."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from tritonlm.engine.attention.paged import PagedInputs
from tritonlm.engine.batch import Batch

NUM_STAGING = 3
"""Host buffers in turn: the device may still read those of the two steps before."""


@dataclass(frozen=True)
class StepInputs:
    """Views of one device buffer, int32; padded requests have slot -1 and context 0."""

    token_ids: torch.Tensor
    """[T]; undefined where the token is the one that the step before sampled."""
    positions: torch.Tensor
    """[T]"""
    token_rows: torch.Tensor
    """Row of each token whose id is on the device only, else -1, [T]."""
    rows: torch.Tensor
    """Row of each request that gets a token, else the dummy row behind the table's, [n]."""
    paged: PagedInputs


class StepBuffer:
    """The inputs of steps of at most `num_tokens` tokens and `num_requests` requests.

    Its place on the device does not change, so that a captured graph may read it.
    """

    def __init__(
        self, num_tokens: int, num_requests: int, num_blocks: int, num_rows: int,
        device: torch.device,
    ) -> None:
        sizes = (*[num_tokens] * 4, *[num_requests] * 2, num_requests + 1,
                 num_requests * num_blocks)
        self._bounds = np.cumsum((0, *sizes)).tolist()
        self._num_blocks = num_blocks
        self._dummy_row = num_rows
        self._device = torch.zeros(self._bounds[-1], dtype=torch.int32, device=device)
        self._staging = [torch.zeros(self._bounds[-1], dtype=torch.int32).pin_memory()
                         for _ in range(NUM_STAGING)]
        self._turn = 0

    def fill(self, batch: Batch) -> None:
        """Copy `batch` to the device, in the order of the current stream; the rest is padding."""
        self._turn = (self._turn + 1) % NUM_STAGING
        staging = self._staging[self._turn]
        token_ids, positions, slots, token_rows, rows, context_lens, starts, tables = (
            np.split(staging.numpy(), self._bounds[1:-1]))
        num_tokens, num_requests = batch.token_ids.size, batch.rows.size
        query_starts = batch.query_starts
        token_ids[:num_tokens] = batch.token_ids
        positions[:num_tokens] = batch.positions
        slots[:num_tokens] = batch.slots
        slots[num_tokens:] = -1
        token_rows[:] = -1
        token_rows[query_starts[1:][batch.pending] - 1] = batch.rows[batch.pending]
        rows[:] = self._dummy_row
        rows[batch.sampled] = batch.rows[batch.sampled]
        context_lens[:num_requests] = batch.context_lens
        context_lens[num_requests:] = 0
        starts[: num_requests + 1] = query_starts
        starts[num_requests + 1 :] = num_tokens
        width = batch.block_tables.shape[1]
        tables.reshape(-1, self._num_blocks)[:num_requests, :width] = batch.block_tables
        self._device.copy_(staging, non_blocking=True)

    def inputs(self, num_tokens: int, num_requests: int, is_decode: bool) -> StepInputs:
        """The inputs of the first tokens and requests; one token each `is_decode`."""
        token_ids, positions, slots, token_rows, rows, context_lens, starts, tables = (
            self._device[start:end] for start, end in pairwise(self._bounds))
        paged = PagedInputs(
            slots[:num_tokens], tables.view(-1, self._num_blocks)[:num_requests],
            context_lens[:num_requests], None if is_decode else starts[: num_requests + 1])
        return StepInputs(token_ids[:num_tokens], positions[:num_tokens], token_rows[:num_tokens],
                          rows[:num_requests], paged)
