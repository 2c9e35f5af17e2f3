"""An engine whose model repeats the prompt: `python -m tests.fakes.echo_engine ENDPOINT SETTINGS`.

Scheduler, worker and messages are the real ones. A step takes `STEP_MS_VARIABLE` of the
environment, however many requests are in it; so it emits tokens as fast as it is told to.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tritonlm.config import ModelConfig
from tritonlm.engine.batch import Batch
from tritonlm.engine.blocks import BlockPool
from tritonlm.engine.build import BuiltEngine
from tritonlm.engine.engine import Engine
from tritonlm.engine.messages import Ready
from tritonlm.engine.scheduler import Scheduler
from tritonlm.engine.step_runner import FinishedStep
from tritonlm.engine.table import RequestTable
from tritonlm.engine.worker import main

STEP_MS_VARIABLE = "ECHO_ENGINE_STEP_MS"
DEFAULT_MAX_MODEL_LEN = 4096
NO_EOS = np.zeros(0, np.int32)


class EchoRunner:
    """Output token number i of a request is number i of its prompt, over and over."""

    def __init__(self, table: RequestTable, step_s: float) -> None:
        self._table = table
        self._step_s = step_s
        self._due_s = 0.0

    def launch(self, batch: Batch) -> FinishedStep:
        table, rows = self._table, batch.rows[batch.sampled]
        place = table.num_tokens[rows] % table.num_prompt[rows]
        token_ids = table.token_ids[rows, place]
        now_s = time.monotonic()
        self._due_s = max(self._due_s + self._step_s, now_s)
        time.sleep(self._due_s - now_s)
        return FinishedStep(token_ids)


def build_echo(config: ModelConfig, report: Callable[[str], None]) -> BuiltEngine:
    max_model_len = config.max_model_len or DEFAULT_MAX_MODEL_LEN
    vocab_size = json.loads(Path(config.model, "config.json").read_text())["vocab_size"]
    table = RequestTable(config.max_num_seqs, max_model_len, config.block_size, NO_EOS)
    num_blocks = config.max_num_seqs * table.blocks_for(max_model_len)
    step_s = float(os.environ[STEP_MS_VARIABLE]) / 1000
    report(f"an echo takes {1000 * step_s:g} ms a step")
    engine = Engine(Scheduler(table, BlockPool(num_blocks), config), EchoRunner(table, step_s))
    return BuiltEngine(engine, Ready(max_model_len, vocab_size))


if __name__ == "__main__":
    sys.exit(main(build_echo))
