"""A step's numbers on their way to the GPU: one copy, from memory that the device reads itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tritonlm.engine.attention.paged import PagedInputs
from tritonlm.engine.batch import Batch
from tritonlm.engine.drawing import DrawOptions
from tritonlm.engine.sampling_columns import NUM_DRAW_WORDS
from tritonlm.engine.table import RequestTable

NUM_STAGING = 3
"""Host buffers in turn: the device may still read those of the two steps before."""


@dataclass(frozen=True)
class StepInputs:
    """Views of one device buffer, int32; padding has slot -1, context 0 and temperature 0."""

    token_ids: torch.Tensor
    """[T]; undefined where the token is the one that the step before sampled."""
    positions: torch.Tensor
    """[T]"""
    token_rows: torch.Tensor
    """Row of each token whose id is on the device only, else -1, [T]."""
    places: torch.Tensor
    """The tokens, of the T, after which others are drawn; then zeros, [n]."""
    draws: DrawOptions
    """How they are drawn, and for which rows: padding for the dummy row behind the table's."""
    paged: PagedInputs

    def columns(self, places: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        """What the model is computed from; with logits wanted after `places` in front of others."""
        wanted = self.places if places is None else torch.cat((places.int(), self.places))
        return self.token_ids, self.token_rows, self.positions, wanted


class StepBuffer:
    """The inputs of steps of at most `num_tokens` tokens and `num_requests` requests.

    Its place on the device does not change, so that a captured graph may read it. At first all
    requests are padding.
    """

    def __init__(
        self, num_tokens: int, num_requests: int, table: RequestTable, device: torch.device
    ) -> None:
        self.num_tokens = num_tokens
        self._table = table
        num_blocks = table.block_tables.shape[1]
        self._shapes: dict[str, tuple[int, ...]] = {
            **dict.fromkeys(("token_ids", "positions", "slots", "token_rows"), (num_tokens,)),
            **dict.fromkeys(("places", "rows", "drawn_positions", "context_lens"),
                            (num_requests,)),
            "query_starts": (num_requests + 1,),
            "draw_options": (num_requests, NUM_DRAW_WORDS),
        }
        self._num_fixed = sum(int(np.prod(shape)) for shape in self._shapes.values())
        size = self._num_fixed + num_requests * num_blocks
        self._device = torch.zeros(size, dtype=torch.int32, device=device)
        self._block_tables = torch.zeros(num_requests, num_blocks, dtype=torch.int32,
                                         device=device)
        self._staging = [torch.zeros(size, dtype=torch.int32).pin_memory()
                         for _ in range(NUM_STAGING)]
        self._host_columns = [self._columns(staging.numpy()) for staging in self._staging]
        self._device_columns = self._columns(self._device)
        self._turn = 0
        for name, padding in (("slots", -1), ("token_rows", -1), ("rows", table.num_rows)):
            self._device_columns[name].fill_(padding)

    def fill(self, batch: Batch) -> None:
        """Copy `batch` to the device, in the order of the current stream; the rest is padding."""
        self._turn = (self._turn + 1) % NUM_STAGING
        staging = self._staging[self._turn]
        columns = self._host_columns[self._turn]
        self._fill_tokens(columns, batch)
        self._fill_requests(columns, batch)
        tables, end = batch.block_tables, self._num_fixed + batch.block_tables.size
        staging.numpy()[self._num_fixed : end] = tables.ravel()
        self._device[:end].copy_(staging[:end], non_blocking=True)
        self._block_tables[: tables.shape[0], : tables.shape[1]] = (
            self._device[self._num_fixed : end].view(tables.shape))

    def inputs(self, num_tokens: int, num_requests: int, is_decode: bool) -> StepInputs:
        """The inputs of the first tokens and requests; one token each `is_decode`."""
        columns = self._device_columns
        paged = PagedInputs(
            columns["slots"][:num_tokens], self._block_tables[:num_requests],
            columns["context_lens"][:num_requests],
            None if is_decode else columns["query_starts"][: num_requests + 1])
        return StepInputs(
            columns["token_ids"][:num_tokens], columns["positions"][:num_tokens],
            columns["token_rows"][:num_tokens], columns["places"][:num_requests],
            DrawOptions(columns["rows"][:num_requests], columns["draw_options"][:num_requests],
                        columns["drawn_positions"][:num_requests]), paged)

    def _fill_tokens(self, columns: dict[str, Any], batch: Batch) -> None:
        num_tokens = batch.token_ids.size
        # What is not known yet is not read here, but may be padding of a later step.
        np.maximum(batch.token_ids, 0, out=columns["token_ids"][:num_tokens])
        columns["positions"][:num_tokens] = batch.positions
        columns["slots"][:num_tokens] = batch.slots
        columns["slots"][num_tokens:] = -1
        columns["token_rows"][:] = -1
        last = batch.query_starts[1:][batch.pending] - 1
        columns["token_rows"][last] = batch.rows[batch.pending]

    def _fill_requests(self, columns: dict[str, Any], batch: Batch) -> None:
        num_requests, num_drawn = batch.rows.size, batch.sampled.size
        rows = batch.rows[batch.sampled]
        columns["places"][:num_drawn] = batch.last_places
        columns["places"][num_drawn:] = 0
        columns["rows"][:num_drawn] = rows
        columns["rows"][num_drawn:] = self._table.num_rows
        columns["drawn_positions"][:num_drawn] = self._table.num_tokens[rows]
        columns["draw_options"][:num_drawn] = self._table.sampling.draw_words[rows]
        columns["draw_options"][num_drawn:] = 0
        columns["context_lens"][:num_requests] = batch.context_lens
        columns["context_lens"][num_requests:] = 0
        columns["query_starts"][: num_requests + 1] = batch.query_starts
        columns["query_starts"][num_requests + 1 :] = batch.token_ids.size

    def _columns(self, flat: Any) -> dict[str, Any]:
        """Views of a buffer, an array or a tensor."""
        columns, start = {}, 0
        for name, shape in self._shapes.items():
            end = start + int(np.prod(shape))
            columns[name] = flat[start:end].reshape(shape)
            start = end
        return columns
