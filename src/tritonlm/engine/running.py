"""The requests that have a row: the blocks they hold, and what others can find of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tritonlm.engine.batch import Int32
from tritonlm.engine.blocks import BlockPool
from tritonlm.engine.prefix import Prefills, digest_of, extend_digests
from tritonlm.engine.queue import WaitingQueue
from tritonlm.engine.request import NO_ROW, Request
from tritonlm.engine.table import RequestTable, Rows


class Running:
    """Puts requests into the table and takes them out, with all that hangs on it."""

    def __init__(
        self, table: RequestTable, blocks: BlockPool, queue: WaitingQueue, has_prefix_cache: bool
    ) -> None:
        self.table = table
        self.blocks = blocks
        self.prefills = Prefills()
        self.num_preemptions = 0
        self._queue = queue
        self._has_prefix_cache = has_prefix_cache

    def name_blocks(self, request: Request) -> None:
        """Find out the digests of the blocks that `request` will compute."""
        if self._has_prefix_cache:
            extend_digests(request.digests, request.token_ids, self.table.block_size)

    def add(self, request: Request, found: list[int], now_s: float) -> None:
        """Give `request` a row, the blocks `found` and new ones up to its first new token."""
        table, row = self.table, self.table.admit(request, now_s)
        num_found, num_blocks = len(found), table.blocks_for(request.num_tokens + 1)
        self.blocks.hold(found)
        table.block_tables[row, :num_found] = found
        table.block_tables[row, num_found:num_blocks] = self.blocks.take(num_blocks - num_found)
        table.num_blocks[row] = num_blocks
        table.num_published[row] = num_found
        table.num_computed[row] = table.num_cached[row] = num_found * table.block_size
        request.row = row
        self.prefills.begin(request, num_found)

    def remove(self, request: Request) -> None:
        """Take `request` out: its blocks are free at once, since the device works in order."""
        row, request.row = request.row, NO_ROW
        self.blocks.give_back(self.table.blocks_of(row))
        self._queue.unpark(
            self.prefills.abandon(request, int(self.table.num_published[row])))
        self.table.remove(row)

    def preempt(self, row: int, now_s: float) -> None:
        """Let the request of `row` wait again, with what it has generated."""
        request = self.table.requests[row]
        assert request is not None
        request.token_ids = self.table.known_tokens(row).copy()
        self.remove(request)
        self.name_blocks(request)
        self._queue.enter(request, now_s, is_preempted=True)
        self.num_preemptions += 1

    def lack_a_block(self, rows: Rows, num_new: Int32) -> NDArray[np.bool_]:
        """Which of `rows` have no room for `num_new` more tokens, bool [n].

        It is one block: those of a prompt are there since its admission.
        """
        table = self.table
        room = table.num_blocks[rows] * table.block_size
        lacking: NDArray[np.bool_] = table.num_computed[rows] + num_new > room
        return lacking

    def extend(self, rows: Rows) -> None:
        """Give each of `rows` another block."""
        table = self.table
        table.block_tables[rows, table.num_blocks[rows]] = self.blocks.take(rows.size)
        table.num_blocks[rows] += 1

    def publish(self, rows: Rows, context_lens: Int32) -> None:
        """Let the full blocks among the first `context_lens` tokens of `rows` be found."""
        if not self._has_prefix_cache:
            return
        table = self.table
        num_full = context_lens // table.block_size
        is_due = num_full > table.num_published[rows]
        if not is_due.any():
            return
        rows, num_full = rows[is_due], num_full[is_due]
        firsts = table.num_published[rows]
        table.num_published[rows] = num_full
        counts = num_full - firsts
        rows = np.repeat(rows, counts)
        places = np.arange(rows.size) + np.repeat(firsts - (np.cumsum(counts) - counts), counts)
        blocks, contents = table.block_tables[rows, places], table.block_contents(rows, places)
        for item in zip(rows.tolist(), places.tolist(), blocks.tolist(), contents, strict=True):
            self._publish(*item)

    def _publish(self, row: int, place: int, block: int, content: bytes) -> None:
        request = self.table.requests[row]
        assert request is not None
        digests = request.digests
        if place == len(digests):
            digests.append(digest_of(content, digests[-1] if digests else b""))
        self.blocks.publish(block, digests[place])
        if followers := self.prefills.settle(digests[place]):
            self._queue.unpark(followers)
