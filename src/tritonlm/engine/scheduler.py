"""Which requests run in the next step, and with how many tokens. No torch in here.

    submit → waiting (queue.py) → admitted (admission.py) → running (running.py) → end
                    ↑_________________ pre-empted _____________________|

A request with a guide waits like the others, but nobody calls it before its grammar is compiled.

A step has single tokens first, then chunks of prompts, the most urgent first. It goes through
three calls: `schedule` makes its batch, `advance` counts its tokens once it is launched, though
nobody knows them yet, and `commit` fills them in when they are read back. Between the last two
other steps may be scheduled, so a request's end is found out when it is in a further step already:
what that one samples for it is dropped, and its row is not used again before.
"""

from __future__ import annotations

from bisect import bisect_left
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tritonlm.config import ModelConfig
from tritonlm.contract import FINISH_REASONS
from tritonlm.engine.admission import Admission
from tritonlm.engine.backlog import Backlog
from tritonlm.engine.batch import Batch, Int32, build_batch
from tritonlm.engine.blocks import BlockPool
from tritonlm.engine.grammar import Grammar, Guide
from tritonlm.engine.grammars import Grammars
from tritonlm.engine.messages import STEP_SIZES, Stats, Submit
from tritonlm.engine.queue import WaitingQueue
from tritonlm.engine.request import NO_ROW, Request, lane_of
from tritonlm.engine.running import Running
from tritonlm.engine.table import RequestTable, Rows
from tritonlm.engine.users import Users

RUNS_ON, STOP, LENGTH, CANCELLED, DEADLINE = range(len(FINISH_REASONS))
REASONS = np.array([RUNS_ON, STOP, LENGTH, STOP], np.uint8)
"""By whether a token is a stop token, and 2 if it is the last that a request may have."""


class Committed(NamedTuple):
    """The tokens that a step has brought, arrays [m]."""

    rows: Rows
    token_ids: Int32
    reasons: NDArray[np.uint8]


class Failure(NamedTuple):
    """A request that is over, and why."""

    owner: int
    key: int
    error: BaseException


class Scheduler:
    """Shares rows, blocks and the token budget among the requests of a table.

    The table has `config.max_num_seqs` rows for each step that may be launched and not committed,
    and as many for the one that is scheduled meanwhile.
    """

    def __init__(
        self, table: RequestTable, blocks: BlockPool, config: ModelConfig,
        grammars: Grammars | None = None,
    ) -> None:
        self.table = table
        self.blocks = blocks
        self.requests: dict[tuple[int, int], Request] = {}
        """All that are not over, by owner and key, in order of arrival."""
        self.failures: list[Failure] = []
        """Requests that a grammar has ended, until the engine takes them away."""
        self._grammars = grammars
        self._compiling: dict[Request, Future[Grammar]] = {}
        self._config = config
        self._num_arrived = 0
        self._users = Users()
        self._queue = WaitingQueue(self._users, config.priority_ageing_s)
        self._running = Running(table, blocks, self._queue, config.prefix_cache)
        self._admission = Admission(self._queue, self._running, config)
        self._backlog = Backlog(self._queue, config)
        self._last_batch: Batch | None = None
        self._num_steps_by_size = [0] * (len(STEP_SIZES) + 1)
        self._num_step_requests = 0

    @property
    def has_work(self) -> bool:
        """Whether there are requests that are not over."""
        return bool(self.requests)

    @property
    def is_compiling(self) -> bool:
        """Whether requests wait for their grammars."""
        return bool(self._compiling)

    def submit(self, owner: int, submit: Submit, now_s: float) -> None:
        """Queue a request, whose key its front end has not in use; raises `QueueFull`.

        Raises ValueError for one with a guide where there are no grammars.
        """
        self._backlog.check_room(submit)
        compiling = self._compile(submit.guide) if submit.guide else None
        request = Request(owner, submit, self._num_arrived, self._users.join(submit.user),
                          submit.prompt(), lane_of(submit.priority),
                          self._config.priority_ageing_s)
        self._num_arrived += 1
        self.requests[owner, submit.key] = request
        self._running.name_blocks(request)
        self._queue.enter(request, now_s)
        if compiling:
            self._compiling[request] = compiling
            self._queue.park(request)

    def end(self, request: Request, now_s: float) -> None:
        """Take out `request`, which is not over."""
        del self.requests[request.owner, request.submit.key]
        self._users.leave(request.user)
        compiling = self._compiling.pop(request, None)
        if compiling and compiling not in self._compiling.values():
            compiling.cancel()  # what nobody waits for is not to keep others waiting
        if request.row == NO_ROW:
            self._queue.leave(request, now_s)
        else:
            self._running.remove(request)

    def schedule(self, now_s: float) -> Batch | None:
        """The next step's batch, its blocks taken; None when nothing can run now."""
        self._line_up_compiled(now_s)
        self._queue.age(now_s)
        self._admission.admit(now_s)
        self._backlog.observe(self._config.max_num_seqs - self.table.num_live, now_s)
        rows, num_new = self._share_budget(self.table.ready(), now_s)
        rows, num_new = self._cover(rows, num_new, now_s)
        self._last_batch = build_batch(self.table, rows, num_new) if rows.size else None
        if self._last_batch:
            self.table.take_off(self._last_batch.rows)
            self._count_step(rows.size)
        return self._last_batch

    def advance(self, batch: Batch) -> None:
        """Count the tokens of `batch`, which is launched."""
        self.table.num_computed[batch.rows] = batch.context_lens
        self.table.append_pending(batch.rows[batch.sampled])
        self._users.charge_each(self.table.user[batch.rows[batch.sampled]])

    def commit(self, batch: Batch, token_ids: Int32, now_s: float) -> Committed:
        """Fill in the sampled `token_ids`, int32 [m], of the oldest launched batch.

        Drops those of requests that are over by now; ends the requests that finish, and those
        whose grammar has failed.
        """
        table = self.table
        is_live = table.is_live[batch.rows]
        self._running.publish(batch.rows[is_live], batch.context_lens[is_live])
        is_kept = is_live[batch.sampled]
        rows, token_ids = batch.rows[batch.sampled][is_kept], token_ids[is_kept]
        num_known = table.fill_in(rows, token_ids)
        is_stop = (table.stop_ids[rows] == token_ids[:, None]).any(axis=1)
        is_full = num_known == table.max_total[rows]
        reasons = REASONS[is_stop + 2 * is_full]
        committed = self._accept(Committed(rows, token_ids, reasons), now_s)
        self._end_rows(committed.rows[committed.reasons.nonzero()], now_s)
        table.land(batch.rows)
        return committed

    def discard(self, batch: Batch, now_s: float) -> Rows:
        """`batch` has failed: end its requests that are not over; return their rows."""
        rows: Rows = batch.rows[self.table.is_live[batch.rows]]
        self._end_rows(rows, now_s)
        self.table.land(batch.rows)
        return rows

    def stats(self, now_s: float) -> Stats:
        """The gauges as they are now."""
        batch = self._last_batch
        return Stats(
            num_running=self.table.num_live,
            num_waiting=len(self._queue),
            num_blocks_used=self.blocks.num_used,
            num_blocks=self.blocks.num_blocks,
            num_waiting_by_priority=tuple(self._queue.num_by_priority),
            oldest_wait_s=self._queue.oldest_wait_s(now_s),
            num_batch_requests=batch.rows.size if batch else 0,
            num_batch_tokens=batch.positions.size if batch else 0,
            num_prefix_tokens_looked_up=self._admission.num_prefix_tokens_looked_up,
            num_prefix_tokens_hit=self._admission.num_prefix_tokens_hit,
            num_preemptions=self._running.num_preemptions,
            num_steps_by_size=tuple(self._num_steps_by_size),
            num_step_requests=self._num_step_requests,
        )

    def _compile(self, guide: Guide) -> Future[Grammar]:
        if self._grammars is None:
            raise ValueError("this engine holds no answers to grammars")
        return self._grammars.compile(guide)

    def _line_up_compiled(self, now_s: float) -> None:
        """Let the requests take their turns whose grammars are there."""
        for request, future in [*self._compiling.items()]:
            if not future.done():
                continue
            error = future.exception()
            if error:
                self._fail(request, error, now_s)
            else:
                del self._compiling[request]
                request.grammar = future.result().copy()
                self._queue.unpark([request], is_first=False)

    def _accept(self, committed: Committed, now_s: float) -> Committed:
        """Have the grammars of guided rows go on; end those that cannot, and leave them out."""
        rows, token_ids, reasons = committed
        failed = []
        for place in self.table.sampling.is_guided[rows].nonzero()[0].tolist():
            request = self._request(rows[place])
            assert request.grammar is not None
            if reasons[place] == RUNS_ON:
                request.grammar.accept(int(token_ids[place]))
            error = request.grammar.error
            if error:
                failed.append(place)
                self._fail(request, error, now_s)
        if not failed:
            return committed
        held = np.delete(np.arange(rows.size), failed)
        return Committed(rows[held], token_ids[held], reasons[held])

    def _fail(self, request: Request, error: BaseException, now_s: float) -> None:
        self.end(request, now_s)
        self.failures.append(Failure(request.owner, request.submit.key, error))

    def _request(self, row: int) -> Request:
        request = self.table.requests[row]
        assert request is not None
        return request

    def _count_step(self, num_requests: int) -> None:
        self._num_steps_by_size[bisect_left(STEP_SIZES, num_requests)] += 1
        self._num_step_requests += num_requests

    def _share_budget(
        self, rows: Rows, now_s: float
    ) -> tuple[Rows, Int32]:
        """Rows and their numbers of tokens in this step: single tokens first, then chunks.

        As in the queue, a request whose turn does not come moves up a class in time.
        """
        table = self.table
        num_new = table.num_tokens[rows] - table.num_computed[rows]
        is_single = num_new == 1
        if is_single.all():
            return rows, num_new
        chunk = num_new.max() if rows.size == 1 else self._config.max_prefill_chunk
        singles, others = rows[is_single], rows[~is_single]
        ages = (now_s - table.admitted_s[others]) // self._config.priority_ageing_s
        others = table.most_urgent_first(others, ages)
        wanted = np.minimum(table.num_tokens[others] - table.num_computed[others], chunk)
        # The logits after all tokens of prompts would take too much memory.
        is_measured = table.sampling.num_prompt_logprobs[others] >= 0
        wanted[is_measured] = _share(self._config.max_prefill_chunk, wanted[is_measured])
        num_new = _share(self._config.step_tokens - singles.size, wanted)
        others, num_new = others[num_new > 0], num_new[num_new > 0]
        return (np.concatenate((singles, others)),
                np.concatenate((np.ones(singles.size, np.int32), num_new)))

    def _cover(
        self, rows: Rows, num_new: Int32, now_s: float
    ) -> tuple[Rows, Int32]:
        """Take the blocks that a step needs; pre-empt requests while there are not enough.

        The last request is never pre-empted: what it lacks is still held by requests whose
        last token is under way.
        """
        is_lacking = self._running.lack_a_block(rows, num_new)
        while np.count_nonzero(is_lacking) > self.blocks.num_free:
            candidates = self.table.most_urgent_first(self.table.runnable())
            if candidates.size == 1:
                return rows[:0], num_new[:0]
            self._running.preempt(int(candidates[-1]), now_s)
            is_kept = rows != candidates[-1]
            rows, num_new, is_lacking = rows[is_kept], num_new[is_kept], is_lacking[is_kept]
        if np.count_nonzero(is_lacking):
            self._running.extend(rows[is_lacking])
        return rows, num_new

    def _end_rows(self, rows: Rows, now_s: float) -> None:
        for row in rows.tolist():
            self.end(self._request(row), now_s)


def _share(amount: int, wanted: Int32) -> Int32:
    """What each gets of `amount`, the first as much as it wants, int32 [n]."""
    return np.clip(amount - (np.cumsum(wanted) - wanted), 0, wanted).astype(np.int32)
