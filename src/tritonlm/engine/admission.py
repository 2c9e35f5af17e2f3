"""Who of the waiting gets a row, and who has to make room for it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tritonlm.config import ModelConfig
from tritonlm.engine.messages import NUM_PRIORITIES
from tritonlm.engine.queue import WaitingQueue
from tritonlm.engine.request import Request
from tritonlm.engine.running import Running
from tritonlm.engine.table import Rows


class Admission:
    """Lets requests in, in the order of the queue, while rows, blocks and the budget last.

    Nobody overtakes a request for which there is no room: else a large one would wait for ever.
    """

    def __init__(self, queue: WaitingQueue, running: Running, config: ModelConfig) -> None:
        self.num_prefix_tokens_looked_up = 0
        self.num_prefix_tokens_hit = 0
        self._queue = queue
        self._running = running
        self._config = config

    def admit(self, now_s: float) -> None:
        """Let in who can come in at `now_s`."""
        if not self._queue:
            return
        budget, wanted = self._config.step_tokens, self._wanted_tokens()
        while (request := self._queue.first()) is not None:
            if wanted[: request.priority + 1].sum() >= budget:
                return
            found = self._find_prefix(request)
            if found is None:
                self._queue.park(request)
            elif self._make_room(request, found, now_s):
                wanted[request.priority] += self._enter(request, found, now_s)
            else:
                return

    def _wanted_tokens(self) -> NDArray[Any]:
        """Tokens that the running requests want of the next step, by class."""
        table = self._running.table
        rows = table.runnable()
        num_new = table.num_tokens[rows] - table.num_computed[rows]
        return np.bincount(table.priority[rows],
                           np.minimum(num_new, self._config.max_prefill_chunk), NUM_PRIORITIES)

    def _find_prefix(self, request: Request) -> list[int] | None:
        """The blocks that `request` need not compute; None when it had better wait for more.

        Its last token is always computed: the next one follows from it. So is every token
        whose follower's probability is asked for.
        """
        num_useful = (request.num_tokens - 1) // self._running.table.block_size
        if request.submit.num_prompt_logprobs >= 0:
            num_useful = 0
        found = self._running.blocks.find(request.digests[:num_useful])
        is_following = self._running.prefills.follow(request, len(found), num_useful)
        return None if is_following else found

    def _enter(self, request: Request, found: list[int], now_s: float) -> int:
        """Give `request` its row; how many tokens it wants of the next step."""
        num_found = len(found) * self._running.table.block_size
        self._queue.take(request, request.num_tokens - num_found, now_s)
        self._running.add(request, found, now_s)
        if self._config.prefix_cache:
            self.num_prefix_tokens_looked_up += request.num_tokens
            self.num_prefix_tokens_hit += num_found
        return min(request.num_tokens - num_found, self._config.max_prefill_chunk)

    def _make_room(self, request: Request, found: list[int], now_s: float) -> bool:
        """Whether there is a row and blocks for `request`, if need be those of lower classes.

        It is the class that a request came with that lets it throw others out: were it the age
        too, then requests of one class would throw each other out when there are too many.
        """
        rows = self._running.table.runnable()
        has_row = rows.size < self._config.max_num_seqs
        num_lacking = self._num_lacking_blocks(request, found, rows)
        if has_row and num_lacking <= 0:
            return True
        right = 0 if self._queue.has_urgent else request.submit.priority
        victims = self._running.table.most_urgent_first(rows)[::-1]
        victims = victims[self._running.table.priority[victims] > right]
        if not victims.size or num_lacking > self._num_gained_blocks(victims, found):
            return False
        for row in victims.tolist():
            self._running.preempt(row, now_s)
            if self._num_lacking_blocks(request, found, self._running.table.runnable()) <= 0:
                return True
        raise AssertionError("the victims held fewer blocks than they were thought to")

    def _num_lacking_blocks(
        self, request: Request, found: list[int], rows: Rows
    ) -> int:
        """Blocks that `request` needs more than there are; 0 or less when there are enough.

        One stays free for each request that `request` would have to make room for when it grows:
        else the newcomer is thrown out again at once.
        """
        table, blocks = self._running.table, self._running.blocks
        num_new = table.blocks_for(request.num_tokens + 1) - len(found)
        num_idle = int((blocks.num_holders[found] == 0).sum())
        num_spare = int((table.priority[rows] <= request.priority).sum())
        return num_new + num_idle + num_spare - blocks.num_free

    def _num_gained_blocks(self, victims: Rows, found: list[int]) -> int:
        """Blocks that are free for others than `found` when `victims` give theirs back."""
        held = np.concatenate([self._running.table.blocks_of(row) for row in victims.tolist()])
        blocks, counts = np.unique(held, return_counts=True)
        blocks = blocks[counts == self._running.blocks.num_holders[blocks]]
        return int(np.setdiff1d(blocks, np.array(found, np.int32)).size)
