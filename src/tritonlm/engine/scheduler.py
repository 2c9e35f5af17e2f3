"""Which requests run in the next step, and with how many tokens. No torch in here.

Running requests come first, each with its next token or a chunk of its prompt; what is left of
the token budget admits requests in order of arrival. When blocks run out, the request admitted
last gives its blocks back and is computed again later.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tritonlm.contract import FINISH_REASONS
from tritonlm.engine.batch import Batch, Int32, build_batch
from tritonlm.engine.blocks import BlockPool
from tritonlm.engine.messages import Submit
from tritonlm.engine.table import RequestTable

RUNS_ON, STOP, LENGTH, CANCELLED, DEADLINE = range(len(FINISH_REASONS))


class Waiting(NamedTuple):
    """A request that has no row yet."""

    owner: int
    request: Submit


class Scheduler:
    """Admission, chunks, blocks and pre-emption of the requests in a table."""

    def __init__(self, table: RequestTable, blocks: BlockPool, max_num_batched_tokens: int) -> None:
        self.table = table
        self.blocks = blocks
        self.waiting: deque[Waiting] = deque()
        self.preempted: deque[int] = deque()
        self.running: list[int] = []
        self._max_num_batched_tokens = max_num_batched_tokens

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.running or self.waiting or self.preempted)

    def schedule(self) -> Batch | None:
        """The next step's batch, its blocks taken; None when nothing runs."""
        self._admit()
        if not self.running:
            return None
        rows, num_new = self._share_budget()
        while self._num_missing_blocks(rows, num_new).sum() > self.blocks.num_free:
            self._preempt(self.running[-1])
            rows, num_new = self._share_budget()
        self._take_blocks(rows, self._num_missing_blocks(rows, num_new))
        return build_batch(self.table, rows, num_new)

    def commit(self, batch: Batch, token_ids: Int32) -> NDArray[np.uint8]:
        """Append the sampled `token_ids`, int32 [m]; return their finish reason codes, uint8 [m].

        Requests that finished give up their blocks and rows.
        """
        table = self.table
        table.num_computed[batch.rows] += batch.num_new
        rows = batch.rows[batch.sampled]
        table.token_ids[rows, table.num_tokens[rows]] = token_ids
        table.num_tokens[rows] += 1
        is_stop = (table.stop_ids[rows] == token_ids[:, None]).any(axis=1)
        is_full = table.num_tokens[rows] >= table.max_total[rows]
        reasons = np.where(is_stop, STOP, np.where(is_full, LENGTH, RUNS_ON)).astype(np.uint8)
        for row in rows[reasons != RUNS_ON].tolist():
            self.remove(row)
        return reasons

    def remove(self, row: int) -> None:
        """Take a running or pre-empted request out."""
        if row in self.running:
            self.running.remove(row)
        else:
            self.preempted.remove(row)
        self._give_back_blocks(row)
        self.table.remove(row)

    def _admit(self) -> None:
        """Let requests in while rows, blocks and the token budget last."""
        table = self.table
        pending = table.num_tokens[self.running] - table.num_computed[self.running]
        budget = self._max_num_batched_tokens - int(pending.sum())
        while budget > 0 and (self.preempted or (self.waiting and table.has_free_row)):
            if self.preempted:
                num_tokens = int(table.num_tokens[self.preempted[0]])
            else:
                num_tokens = self.waiting[0].request.num_prompt_tokens
            num_blocks = table.blocks_for(num_tokens + 1)
            # A block for each running request stays free: else the newcomer is thrown out again.
            if num_blocks + len(self.running) > self.blocks.num_free and self.running:
                return
            row = self.preempted.popleft() if self.preempted else table.add(*self.waiting.popleft())
            self.running.append(row)
            num_held = min(num_blocks, table.blocks_for(int(table.max_total[row])))
            self._take_blocks(np.array([row], np.int32), np.array([num_held], np.int32))
            budget -= num_tokens

    def _share_budget(self) -> tuple[Int32, Int32]:
        """Rows and their numbers of tokens in this step: single tokens first, then chunks."""
        table = self.table
        rows = np.array(self.running, np.int32)
        pending = table.num_tokens[rows] - table.num_computed[rows]
        order = np.argsort(pending != 1, kind="stable")
        rows, pending = rows[order], pending[order]
        num_before = np.cumsum(pending) - pending
        num_new = np.clip(self._max_num_batched_tokens - num_before, 0, pending)
        return rows[num_new > 0], num_new[num_new > 0].astype(np.int32)

    def _num_missing_blocks(self, rows: Int32, num_new: Int32) -> Int32:
        table = self.table
        num_needed = -(-(table.num_computed[rows] + num_new) // table.block_size)
        return np.maximum(num_needed - table.num_blocks[rows], 0).astype(np.int32)

    def _take_blocks(self, rows: Int32, counts: Int32) -> None:
        table = self.table
        for row, count in zip(rows[counts > 0].tolist(), counts[counts > 0].tolist(), strict=True):
            start = int(table.num_blocks[row])
            table.block_tables[row, start : start + count] = self.blocks.take(count)
            table.num_blocks[row] += count

    def _give_back_blocks(self, row: int) -> None:
        self.blocks.give_back(self.table.blocks_of(row))
        self.table.num_blocks[row] = 0

    def _preempt(self, row: int) -> None:
        self.running.remove(row)
        self._give_back_blocks(row)
        self.table.num_computed[row] = 0
        self.preempted.appendleft(row)
