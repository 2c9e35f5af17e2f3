"""Engines of small random checkpoints, and prompts for them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
from tests.checkpoints import VOCAB_SIZE

from tritonlm.config import ModelConfig
from tritonlm.engine.blocks import BlockPool
from tritonlm.engine.build import build_engine
from tritonlm.engine.engine import Engine
from tritonlm.engine.scheduler import Scheduler
from tritonlm.engine.table import RequestTable

FEW_BLOCKS_GIB = 24 * 16 * 2 * 2 * 2 * 16 * 4 / 2**30
"""A cache of 24 blocks, in which a dozen requests pre-empt each other."""


def prompts(count, seed=0):
    random = np.random.default_rng(seed)
    return [random.integers(3, VOCAB_SIZE, size).tolist() for size in random.integers(1, 90, count)]


def engine_of(checkpoint, **settings):
    defaults = {"max_num_seqs": 32, "max_num_batched_tokens": 64, "kv_cache_gib": 0.01}
    return build_engine(ModelConfig(str(checkpoint), **defaults | settings), print).engine


def launched_ahead(engine):
    """The same model in an engine of depth 1, its steps run at once but read back later.

    On a GPU engines are of that depth as they are.
    """
    if engine._depth:
        return engine
    old, config = engine.scheduler.table, ModelConfig(max_num_seqs=32, max_num_batched_tokens=64)
    table = RequestTable(2 * 32, old.token_ids.shape[1], old.block_size, old._eos_ids)
    scheduler = Scheduler(table, BlockPool(engine.scheduler.blocks.num_blocks), config,
                          engine.scheduler._grammars)
    run = engine.runner.run.func
    last_token = np.zeros(2 * 32, np.int32)

    def launch(batch):
        token_ids, last = batch.token_ids.copy(), batch.query_starts[1:][batch.pending] - 1
        token_ids[last] = last_token[batch.rows[batch.pending]]
        step = run(replace(batch, token_ids=token_ids), table=table)
        last_token[batch.rows[batch.sampled]] = step.tokens()
        return step

    return Engine(scheduler, SimpleNamespace(launch=launch), depth=1)
