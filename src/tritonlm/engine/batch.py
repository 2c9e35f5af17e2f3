"""One step's work as flat arrays: all tokens of all its requests, one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tritonlm.engine.table import RequestTable, Rows

Int32 = NDArray[np.int32]
Places = NDArray[np.intp]
PENDING = -1
NO_PLACES: Places = np.zeros(0, np.intp)


@dataclass(frozen=True)
class Batch:
    """T tokens of n requests; the requests with one new token come first."""

    rows: Rows
    """Rows of the request table, [n]."""
    num_new: Int32
    """Tokens of each request in this step, [n]."""
    token_ids: Int32
    """[T]; `PENDING` where the host does not know the id yet."""
    pending: NDArray[np.bool_]
    """Requests whose last token here is the one that the last launched step samples, [n]."""
    positions: Int32
    """Place of each token in its request, [T]."""
    slots: Int32
    """Place of each token in the KV cache, [T]."""
    context_lens: Int32
    """Tokens of each request that are in the cache after this step, [n]."""
    block_tables: Int32
    """[n, most blocks of any request]; what lies behind a request's own blocks is undefined."""
    num_decodes: int
    """Requests with exactly one new token."""
    sampled: Places
    """Which of the n requests get a new token: those whose last known token is in this step."""
    asked: Places
    """Which of the T tokens are followed by a prompt token whose probability is asked for."""

    @cached_property
    def last_places(self) -> Places:
        """Which of the T tokens are the last of `sampled`."""
        if self.num_decodes == self.rows.size:
            return self.sampled
        return (self.query_starts[1:][self.sampled] - 1).astype(np.intp)

    @cached_property
    def query_starts(self) -> Int32:
        """Index of each request's first token among the T, and T itself, [n + 1]."""
        return np.concatenate(([0], np.cumsum(self.num_new))).astype(np.int32)


def build_batch(table: RequestTable, rows: Rows, num_new: Int32) -> Batch:
    """The next `num_new` tokens of `rows`, whose blocks are taken already."""
    is_single = num_new == 1
    if is_single.all():
        context_lens = table.num_computed[rows] + num_new
        ends, token_rows, positions = np.arange(1, rows.size + 1), rows, context_lens - 1
    else:
        order = np.argsort(~is_single, kind="stable")
        rows, num_new = rows[order], num_new[order]
        context_lens = table.num_computed[rows] + num_new
        ends, token_rows = np.cumsum(num_new), np.repeat(rows, num_new)
        shifts = np.repeat(context_lens - ends, num_new)
        positions = (shifts + np.arange(token_rows.size)).astype(np.int32)
    places, offsets = np.divmod(positions, table.block_size)
    token_ids = table.token_ids[token_rows, positions]
    pending = table.num_pending[rows] > 0
    if np.count_nonzero(pending):
        token_ids[ends[pending] - 1] = PENDING
    return Batch(
        rows=rows,
        num_new=num_new,
        token_ids=token_ids,
        pending=pending,
        positions=positions,
        slots=table.block_tables[token_rows, places] * table.block_size + offsets,
        context_lens=context_lens,
        block_tables=table.block_tables[rows, : table.blocks_for(int(context_lens.max()))],
        num_decodes=int(np.count_nonzero(is_single)),
        sampled=(context_lens == table.num_tokens[rows]).nonzero()[0],
        asked=_asked(table, rows, num_new, positions),
    )


def _asked(table: RequestTable, rows: Rows, num_new: Int32, positions: Int32) -> Places:
    is_asked = table.sampling.num_prompt_logprobs[rows] >= 0
    if not np.count_nonzero(is_asked):
        return NO_PLACES
    num_prompt = np.repeat(np.where(is_asked, table.num_prompt[rows], 0), num_new)
    return np.flatnonzero(positions + 1 < num_prompt)
