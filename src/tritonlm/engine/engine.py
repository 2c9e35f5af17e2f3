"""The engine: step() schedules, launches and hands back."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tritonlm.engine.batch import Batch, Int32
from tritonlm.engine.deadlines import Deadlines, Name
from tritonlm.engine.messages import NUM_PRIORITIES, Failed, Logprobs, Starts, Stats, Submit, Tokens
from tritonlm.engine.scheduler import CANCELLED, DEADLINE, Scheduler
from tritonlm.engine.step_runner import LaunchedStep, StepRunner
from tritonlm.engine.table import RequestTable, Rows
from tritonlm.engine.token_logprobs import TokenLogprobs
from tritonlm.errors import EngineFailure, ServingError
from tritonlm.logs import fields

LOG = logging.getLogger(__name__)
NO_TOKEN = -1


@dataclass(frozen=True)
class FirstTokens:
    """Requests that have their first token: arrays [n]."""

    owners: Int32
    keys: NDArray[np.int64]
    admitted_s: NDArray[np.float64]
    num_cached: Int32

    @classmethod
    def among(cls, table: RequestTable, rows: Rows) -> FirstTokens | None:
        """Those of `rows`, which have got a token each, if there are any."""
        num_known = table.num_tokens[rows] - table.num_pending[rows]
        rows = rows[num_known == table.num_prompt[rows] + 1]
        if not rows.size:
            return None
        return cls(table.owner[rows], table.key[rows], table.admitted_s[rows],
                   table.num_cached[rows])

    def of(self, owner: int) -> Starts | None:
        """Those of a front end, if there are any."""
        mine = self.owners == owner
        if not mine.any():
            return None
        return Starts(self.keys[mine].tobytes(), self.admitted_s[mine].tobytes(),
                      self.num_cached[mine].tobytes())


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
    """Why it failed; then all the requests here are over."""
    failure_code: str = EngineFailure.code
    logprobs: Sequence[tuple[Int32, NDArray[np.int64], TokenLogprobs]] = ()
    """Owners, keys and what they asked to know, of any number of tokens."""
    at_s: float = 0.0
    """When it came about."""
    first_tokens: FirstTokens | None = None

    def by_owner(self) -> Iterator[tuple[int, Tokens | Failed]]:
        """One message for each front end that has requests here."""
        owners = {*self.owners.tolist()}.union(*(owners.tolist() for owners, _, _ in self.logprobs))
        for owner in sorted(owners):
            mine = self.owners == owner
            keys = self.keys[mine].tobytes()
            if self.failure:
                yield owner, Failed(keys, self.failure, self.failure_code)
            else:
                yield owner, Tokens(
                    keys, self.token_ids[mine].tobytes(), self.reasons[mine].tobytes(),
                    self._logprobs_of(owner), self.at_s,
                    self.first_tokens.of(owner) if self.first_tokens else None)

    def _logprobs_of(self, owner: int) -> tuple[Logprobs, ...]:
        return tuple(measured.where(owners == owner).to_message(keys[owners == owner])
                     for owners, keys, measured in self.logprobs if (owners == owner).any())


class Engine:
    """Requests in, tokens out, a step at a time.

    With `depth` 1 a step is launched before the tokens of the one before are read back, so that
    the device has work while they are handed out; with 0 each step is read back at once. A
    `RuntimeError` of `runner` fails the requests of that step, and no others.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        runner: StepRunner,
        clock: Callable[[], float] = time.monotonic,
        depth: int = 0,
    ) -> None:
        self.scheduler = scheduler
        self.runner = runner
        self._clock = clock
        self._depth = depth
        self._launched: deque[tuple[Batch, LaunchedStep]] = deque()
        self._deadlines = Deadlines(scheduler.requests)
        self._has_scheduled = True

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return self.scheduler.has_work or bool(self._launched)

    @property
    def is_compiling(self) -> bool:
        """Whether grammars are being compiled, and the last step had nothing else to do."""
        return self.scheduler.is_compiling and not (self._has_scheduled or self._launched)

    @property
    def is_under_way(self) -> bool:
        """Whether a step has been launched, and its tokens are yet to be read back."""
        return bool(self._launched)

    def submit(self, owner: int, request: Submit) -> None:
        """Queue `request` of front end `owner`.

        Raises ValueError when it can never run, and `QueueFull` when there is no room for it now.
        """
        self._check(owner, request)
        self.scheduler.submit(owner, request, self._clock())
        self._deadlines.add((owner, request.key))

    def cancel(self, owner: int, key: int) -> None:
        """End a request whose front end wants no more of it."""
        self._end([(owner, key)], CANCELLED)

    def cancel_by_id(self, request_id: str) -> News:
        """End every request called `request_id`."""
        return self._end([name for name, request in self.scheduler.requests.items()
                          if request.submit.request_id == request_id], CANCELLED)

    def cancel_all(self, owner: int) -> None:
        """End the requests of a front end that is gone."""
        self._end([name for name in self.scheduler.requests if name[0] == owner], CANCELLED)

    def step(self) -> list[News]:
        """Launch one batch and read one back; returns what happened, in order."""
        news = self._expire()
        batch = self.scheduler.schedule(self._clock())
        self._has_scheduled = batch is not None
        if batch is not None:
            news += self._launch(batch)
        if self._launched and (batch is None or len(self._launched) > self._depth):
            news.append(self._read_back(*self._launched.popleft()))
        return news + self._take_failures()

    def stats(self) -> Stats:
        """The gauges as they are now."""
        return self.scheduler.stats(self._clock())

    def _check(self, owner: int, request: Submit) -> None:
        table = self.scheduler.table
        total = request.num_prompt_tokens + request.max_tokens
        room = min(table.token_ids.shape[1], self.scheduler.blocks.num_blocks * table.block_size)
        if total > room:
            raise ValueError(f"a request of {total} tokens does not fit the engine, which has room "
                             f"for one of {room}")
        if request.num_prompt_tokens < 1 or request.max_tokens < 1:
            raise ValueError("a request has a token in its prompt and wants one at least")
        if not 0 <= request.priority < NUM_PRIORITIES:
            raise ValueError(f"there is no priority {request.priority}")
        if (owner, request.key) in self.scheduler.requests:
            raise ValueError(f"there is a request {request.key} already")

    def _launch(self, batch: Batch) -> list[News]:
        try:
            step = self.runner.launch(batch)
        except RuntimeError as error:
            return [self._fail(batch, str(error))]
        self.scheduler.advance(batch)
        self._launched.append((batch, step))
        return []

    def _read_back(self, batch: Batch, step: LaunchedStep) -> News:
        try:
            token_ids = step.tokens()
        except RuntimeError as error:
            return self._fail(batch, str(error))
        table = self.scheduler.table
        logprobs = [measured.where(table.is_live[measured.rows]) for measured in step.logprobs]
        now_s = self._clock()
        rows, token_ids, reasons = self.scheduler.commit(batch, token_ids, now_s)
        return News(table.owner[rows], table.key[rows], token_ids, reasons, logprobs=[
            (table.owner[measured.rows], table.key[measured.rows], measured)
            for measured in logprobs], at_s=now_s, first_tokens=FirstTokens.among(table, rows))

    def _fail(self, batch: Batch, message: str) -> News:
        table = self.scheduler.table
        LOG.error("a step failed: %s", message, extra=fields(request_ids=[
            request.submit.request_id for request in map(table.requests.__getitem__, batch.rows)
            if request is not None]))
        rows = self.scheduler.discard(batch, self._clock())
        return _failed(table.owner[rows], table.key[rows], EngineFailure(message))

    def _take_failures(self) -> list[News]:
        """What the scheduler had to end."""
        failures, self.scheduler.failures = self.scheduler.failures, []
        return [_failed(np.array([owner], np.int32), np.array([key], np.int64), error)
                for owner, key, error in failures]

    def _expire(self) -> list[News]:
        """End the requests whose deadline has passed."""
        late = self._deadlines.pass_by(self._clock())
        return [self._end(late, DEADLINE)] if late else []

    def _end(self, names: list[Name], reason: int) -> News:
        """Take out the requests of these owners and keys, those that are not over."""
        requests = self.scheduler.requests
        ended = [name for name in names if name in requests]
        for name in ended:
            self.scheduler.end(requests[name], self._clock())
        owners, keys = np.array(ended, np.int64).reshape(-1, 2).T
        return News(owners.astype(np.int32), keys, np.full(keys.size, NO_TOKEN, np.int32),
                    np.full(keys.size, reason, np.uint8), at_s=self._clock())


def _failed(owners: Int32, keys: NDArray[np.int64], error: BaseException) -> News:
    nothing = np.zeros(0, np.int32)
    code = error.code if isinstance(error, ServingError) else EngineFailure.code
    return News(owners, keys, nothing, nothing.astype(np.uint8), str(error), code)
