"""An engine that shares its model with a follower, against one that has it alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
from drive import run_all, submit
from small_engine import engine_of
from tests.checkpoints import save_random_model
from tests.drills.waiting import until

from tritonlm.config import ModelConfig
from tritonlm.engine.batch import build_batch
from tritonlm.engine.table import RequestTable
from tritonlm.engine.tensor_parallel import wire
from tritonlm.engine.tensor_parallel.leader import OUT_OF_STEP
from tritonlm.errors import InvalidArgument

SCRIPT = Path(__file__).with_name("led_engine.py")
REQUESTS = [
    {"prompt": list(range(3, 40)), "max_tokens": 20},
    {"prompt": [5, 6, 7], "max_tokens": 30, "temperature": 1.0, "seed": 3, "num_logprobs": 2},
    {"prompt": list(range(9, 30)), "max_tokens": 5, "num_prompt_logprobs": 1},
    {"prompt": [80] * 12, "max_tokens": 25, "repetition_penalty": 1.5, "temperature": 0.7},
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_random_model(tmp_path_factory.mktemp("checkpoint"))


@contextmanager
def led_engine(checkpoint):
    process = subprocess.Popen(
        [sys.executable, SCRIPT, checkpoint], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, env=os.environ | {"PYTHONPATH": str(SCRIPT.parents[3])})
    try:
        assert process.stdout.readline() == "built\n"
        yield process
    finally:
        process.kill()
        process.wait()


def is_gone(process):
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_two_processes_say_what_one_says(checkpoint):
    requests = [submit(key, **options) for key, options in enumerate(REQUESTS)]
    alone = run_all(engine_of(checkpoint), {0: requests})
    with led_engine(checkpoint) as process:
        process.stdin.write(json.dumps(REQUESTS) + "\n")
        process.stdin.flush()
        token_ids, reasons, failures, logprobs = json.loads(process.stdout.readline())
    assert not failures
    for key in range(len(REQUESTS)):
        assert token_ids[str(key)] == alone.token_ids[key]
        assert reasons[str(key)] == alone.reasons[key]
    for key in (1, 2):
        assert len(logprobs[str(key)]) == len(alone.logprobs[key]) > 0
        for place, (ids, values) in logprobs[str(key)].items():
            other_ids, other_values = alone.logprobs[key][int(place)]
            assert ids == other_ids
            assert np.allclose(values, other_values, atol=1e-3)


async def test_neither_outlives_the_other(checkpoint):
    with led_engine(checkpoint) as process:
        [follower] = psutil.Process(process.pid).children()
        follower.kill()
        assert process.wait(20) == OUT_OF_STEP
    with led_engine(checkpoint) as process:
        [follower] = psutil.Process(process.pid).children()
        process.kill()
        await until(lambda: is_gone(follower), "the follower goes on alone")


def test_a_batch_arrives_as_it_was_sent():
    table = RequestTable(4, 64, 16, np.zeros(0, np.int32))
    table.num_tokens[:] = (5, 9, 3, 1)
    table.num_prompt[:] = table.num_tokens
    table.sampling.num_prompt_logprobs[1] = 0
    table.num_pending[2], table.num_computed[2] = 1, 2
    batch = build_batch(table, np.array([2, 0, 1], np.int32), np.array([1, 5, 9], np.int32))
    assert batch.asked.size, "the batch must have some of everything"
    assert batch.pending.any()
    received = wire.decode(wire.encode(batch))
    for name in wire.NAMES:
        sent, came = getattr(batch, name), getattr(received, name)
        np.testing.assert_array_equal(sent, came)
        assert np.asarray(sent).dtype == np.asarray(came).dtype


def test_int4_weights_are_not_split():
    with pytest.raises(InvalidArgument, match=r"quantization: 'int4' .* none with tensor_parallel"):
        ModelConfig(tensor_parallel=2, quantization="int4")
