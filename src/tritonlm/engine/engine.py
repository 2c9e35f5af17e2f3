"""The engine: step() schedules, runs and hands back."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tritonlm.engine.batch import Batch, Int32
from tritonlm.engine.messages import Failed, Stats, Submit, Tokens
from tritonlm.engine.scheduler import CANCELLED, DEADLINE, Scheduler, Waiting

NO_TOKEN = -1


@dataclass(frozen=True)
class News:
    """What became of requests: arrays [n], a request at most once."""

    owners: Int32
    keys: NDArray[np.int64]
    token_ids: Int32
    """The new token, or `NO_TOKEN`."""
    reasons: NDArray[np.uint8]
    """Codes of `contract.FINISH_REASONS`."""
    failure: str = ""
    """Why the step failed; then all the requests here are over."""

    def by_owner(self) -> Iterator[tuple[int, Tokens | Failed]]:
        """One message for each front end that has requests here."""
        for owner in np.unique(self.owners).tolist():
            mine = self.owners == owner
            keys = self.keys[mine].tobytes()
            if self.failure:
                yield owner, Failed(keys, self.failure)
            else:
                yield owner, Tokens(
                    keys, self.token_ids[mine].tobytes(), self.reasons[mine].tobytes())


class Engine:
    """Requests in, tokens out, a step at a time.

    `run` computes a batch and returns the sampled ids, int32 [m]; a `RuntimeError` of it fails
    the requests of the batch, and no others.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        run: Callable[[Batch], Int32],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.scheduler = scheduler
        self._run = run
        self._clock = clock
        self._next_deadline_s = math.inf

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return self.scheduler.has_work

    def submit(self, owner: int, request: Submit) -> None:
        """Queue `request` of front end `owner`; raises ValueError when it can never run."""
        table = self.scheduler.table
        total = request.num_prompt_tokens + request.max_tokens
        num_blocks = table.blocks_for(total)
        if total > table.token_ids.shape[1] or num_blocks > self.scheduler.blocks.num_blocks:
            raise ValueError(f"a request of {total} tokens does not fit the engine")
        self.scheduler.waiting.append(Waiting(owner, request))
        self._next_deadline_s = min(self._next_deadline_s, request.deadline_s)

    def cancel(self, owner: int, key: int) -> None:
        """End a request whose front end wants no more of it."""
        self._end(lambda o, request_key, _: (o, request_key) == (owner, key), CANCELLED)

    def cancel_by_id(self, request_id: str) -> News:
        """End every request called `request_id`."""
        return self._end(lambda _owner, _key, name: name == request_id, CANCELLED)

    def cancel_all(self, owner: int) -> None:
        """End the requests of a front end that is gone."""
        self._end(lambda o, _key, _name: o == owner, CANCELLED)

    def step(self) -> list[News]:
        """Run one batch; returns what happened, in order."""
        news = self._expire()
        batch = self.scheduler.schedule()
        if batch is None:
            return news
        try:
            token_ids = self._run(batch)
        except RuntimeError as error:
            return [*news, self._fail(batch, str(error))]
        reasons = self.scheduler.commit(batch, token_ids)
        return [*news, self._news(batch.rows[batch.sampled], token_ids, reasons)]

    def stats(self) -> Stats:
        """The gauges as they are now."""
        scheduler = self.scheduler
        return Stats(
            num_running=len(scheduler.running),
            num_waiting=len(scheduler.waiting) + len(scheduler.preempted),
            num_blocks_used=scheduler.blocks.num_used,
            num_blocks=scheduler.blocks.num_blocks,
        )

    def _news(self, rows: Int32, token_ids: Int32, reasons: NDArray[np.uint8]) -> News:
        table = self.scheduler.table
        return News(table.owner[rows], table.key[rows], token_ids, reasons)

    def _fail(self, batch: Batch, message: str) -> News:
        for row in batch.rows.tolist():
            self.scheduler.remove(row)
        table = self.scheduler.table
        nothing = np.zeros(0, np.int32)
        return News(table.owner[batch.rows], table.key[batch.rows], nothing,
                    nothing.astype(np.uint8), message)

    def _expire(self) -> list[News]:
        """End the requests whose deadline has passed."""
        now_s = self._clock()
        if now_s < self._next_deadline_s:
            return []
        table, scheduler = self.scheduler.table, self.scheduler
        late = {(waiting.owner, waiting.request.key) for waiting in scheduler.waiting
                if waiting.request.deadline_s <= now_s}
        late |= {(int(table.owner[row]), int(table.key[row])) for row in self._rows()
                 if table.deadline_s[row] <= now_s}
        news = self._end(lambda owner, key, _: (owner, key) in late, DEADLINE)
        deadlines = [w.request.deadline_s for w in scheduler.waiting]
        self._next_deadline_s = min([*deadlines, *table.deadline_s[self._rows()]], default=math.inf)
        return [news]

    def _rows(self) -> list[int]:
        return [*self.scheduler.running, *self.scheduler.preempted]

    def _end(self, is_meant: Callable[[int, int, str], bool], reason: int) -> News:
        """Take out the requests of which `is_meant(owner, key, request_id)` holds."""
        table, scheduler = self.scheduler.table, self.scheduler
        ended: list[tuple[int, int]] = []
        for row in self._rows():
            owner, key = int(table.owner[row]), int(table.key[row])
            if is_meant(owner, key, table.request_id[row]):
                scheduler.remove(row)
                ended.append((owner, key))
        for waiting in list(scheduler.waiting):
            if is_meant(waiting.owner, waiting.request.key, waiting.request.request_id):
                scheduler.waiting.remove(waiting)
                ended.append((waiting.owner, waiting.request.key))
        owners, keys = np.array(ended, np.int64).reshape(-1, 2).T
        return News(owners.astype(np.int32), keys, np.full(keys.size, NO_TOKEN, np.int32),
                    np.full(keys.size, reason, np.uint8))
