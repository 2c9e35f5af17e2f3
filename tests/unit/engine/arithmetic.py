"""A model that is arithmetic, on a device that takes steps before they are read back."""

from __future__ import annotations

from collections import deque

import numpy as np

from tritonlm.config import ModelConfig
from tritonlm.engine.batch import PENDING
from tritonlm.engine.blocks import BlockPool
from tritonlm.engine.engine import Engine
from tritonlm.engine.scheduler import Scheduler
from tritonlm.engine.table import RequestTable

MAX_MODEL_LEN = 48
EOS = 7
NUM_IDS = 31


def next_token(context):
    return int((context * np.arange(1, context.size + 1)).sum() % NUM_IDS)


def expected(prompt, max_tokens, ignore_eos=False):
    """What a request gets when it runs alone."""
    context, out = list(prompt), []
    while len(out) < max_tokens:
        out.append(next_token(np.array(context + out)))
        if out[-1] == EOS and not ignore_eos:
            break
    return out


class Device:
    """Each next token follows from all tokens before it, read back from the paged cache.

    A lazy device computes a step when its tokens are asked for: later than what is scheduled
    meanwhile, but in the order of the launches.
    """

    def __init__(self, num_rows, num_blocks, block_size, is_lazy):
        self.block_size, self.is_lazy = block_size, is_lazy
        self.cache = np.full(num_blocks * block_size, -1, np.int64)
        self.last_token = np.full(num_rows, -1, np.int64)
        self.batches = []
        """All that were launched."""
        self.faults = {}
        """Messages by the number of the step that fails with them; "launch" or "tokens" first."""
        self._waiting = deque()

    @property
    def num_tokens(self):
        return sum(batch.positions.size for batch in self.batches)

    def launch(self, batch):
        step = Step(self, batch, len(self.batches))
        self.batches.append(batch)
        if step.fault == "launch":
            raise RuntimeError("a fault at launch")
        self._waiting.append(step)
        if not self.is_lazy:
            self.run_up_to(step)
        return step

    def run_up_to(self, step):
        while step.result is None:
            first = self._waiting.popleft()
            first.result = self._compute(first.batch)

    def _compute(self, batch):
        assert len(set(batch.slots.tolist())) == batch.slots.size, "two tokens share a slot"
        assert (batch.num_new[: batch.num_decodes] == 1).all()
        assert len(set(batch.rows.tolist())) == batch.rows.size
        token_ids, last = batch.token_ids.copy(), batch.query_starts[1:][batch.pending] - 1
        assert (token_ids[last] == PENDING).all()
        token_ids[last] = self.last_token[batch.rows[batch.pending]]
        assert (token_ids >= 0).all(), "an id is not known"
        self.cache[batch.slots] = token_ids
        tokens = [next_token(self._context(batch, index)) for index in batch.sampled.tolist()]
        self.last_token[batch.rows[batch.sampled]] = tokens
        return np.array(tokens, np.int32)

    def _context(self, batch, index):
        places = np.arange(batch.context_lens[index])
        blocks = batch.block_tables[index, places // self.block_size]
        return self.cache[blocks * self.block_size + places % self.block_size]


class Step:
    logprobs = ()

    def __init__(self, device, batch, number):
        self.batch, self.result, self._device = batch, None, device
        self.fault = device.faults.get(number)

    def tokens(self):
        if self.fault == "tokens":
            self._device.cache[self.batch.slots] = -1000  # what it wrote cannot be trusted
            self._device._waiting.remove(self)
            raise RuntimeError("a fault at work")
        self._device.run_up_to(self)
        return self.result


def make_engine(num_rows=4, num_blocks=24, block_size=4, clock=lambda: 0.0, depth=0, is_lazy=True,
                **settings):
    settings = {"max_num_batched_tokens": 16, **settings}
    config = ModelConfig(max_num_seqs=num_rows, **settings)
    table = RequestTable(num_rows * (1 + depth), MAX_MODEL_LEN, block_size,
                         np.array([EOS], np.int32))
    scheduler = Scheduler(table, BlockPool(num_blocks), config)
    device = Device(num_rows * (1 + depth), num_blocks, block_size, is_lazy)
    engine = Engine(scheduler, device, clock, depth)
    engine.device = device
    return engine


def assert_holders_are_right(engine):
    table, pool = engine.scheduler.table, engine.scheduler.blocks
    held = [table.blocks_of(row) for row in np.flatnonzero(table.is_live)]
    num_holders = np.bincount(np.concatenate([[], *held]).astype(int), minlength=pool.num_blocks)
    assert (num_holders == pool.num_holders).all()
    assert pool.num_used == np.count_nonzero(num_holders)


def assert_clean(engine):
    stats = engine.stats()
    assert (stats.num_running, stats.num_waiting, stats.num_blocks_used) == (0, 0, 0)
    assert sum(stats.num_waiting_by_priority) == 0
    assert not engine.has_work
    assert_holders_are_right(engine)
    scheduler = engine.scheduler
    assert sorted(scheduler.table._free_rows) == list(range(scheduler.table.num_blocks.size))
    assert not scheduler.table.num_in_flight.any()
    assert not scheduler._users._numbers
    assert not any(scheduler._queue._lanes)
    assert not scheduler._running.prefills._leaders
    assert not scheduler._running.prefills._followers


def run_until_idle(engine):
    news, num_steps = [], 0
    while engine.has_work:
        news += engine.step()
        num_steps += 1
        assert num_steps < 10_000, "the engine does not come to an end"
    return news
