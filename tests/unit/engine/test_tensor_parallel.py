"""An engine that shares its model with a follower, as on another machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
from drive import run_all, submit
from small_engine import engine_of
from tests.checkpoints import SIZES, save_random_model
from tests.drills.processes import has_ended
from tests.drills.waiting import LIMIT_S, until
from transformers import LlamaConfig
from typer.testing import CliRunner

from tritonlm.cli import app
from tritonlm.config import ModelConfig
from tritonlm.engine.batch import build_batch
from tritonlm.engine.table import RequestTable
from tritonlm.engine.tensor_parallel import wire
from tritonlm.engine.tensor_parallel.leader import OUT_OF_STEP
from tritonlm.errors import InvalidArgument

COMMAND = str(Path(sys.executable).parent / "tritonlm")
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


@pytest.fixture(scope="module")
def alone(checkpoint):
    requests = [submit(key, **options) for key, options in enumerate(REQUESTS)]
    return run_all(engine_of(checkpoint, device="cpu"), {0: requests})


@contextmanager
def led_engine(checkpoint, **settings):
    process = subprocess.Popen(
        [sys.executable, SCRIPT, checkpoint, json.dumps({"tensor_parallel": 2} | settings)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(SCRIPT.parents[3])})
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until_built(process):
    assert process.stdout.readline() == "built\n"


def ask(process, requests):
    """What the engine makes of `requests`: ids, reasons, failures and log probabilities."""
    process.stdin.write(json.dumps(requests) + "\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def check(answer, alone):
    token_ids, reasons, failures, logprobs = answer
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


@pytest.mark.parametrize("ends_first", ["leader", "follower"])
async def test_two_machines_say_what_one_says_and_neither_outlives_the_other(
    checkpoint, alone, ends_first
):
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    settings = {"tensor_parallel_nodes": 2, "tensor_parallel_address": address}
    follow = [COMMAND, "follow", address, "--node", "1", "--timeout-s", "60"]
    with led_engine(checkpoint, **settings) as leader, subprocess.Popen(
            follow, stderr=subprocess.PIPE, text=True) as other:
        try:
            wait_until_built(leader)
            check(ask(leader, REQUESTS), alone)
            [follower] = [process for process in psutil.process_iter(["ppid"])
                          if process.info["ppid"] == other.pid]
            (leader if ends_first == "leader" else follower).kill()
            assert other.wait(LIMIT_S) == 1
            await until(lambda: has_ended(follower), "the follower goes on alone")
        finally:
            other.kill()
        said = other.stderr.read()
        assert "parts 2 to 2 of 2" in said
        assert "follower 1 has ended" in said
        if ends_first == "follower":
            assert leader.wait(LIMIT_S) == OUT_OF_STEP


def test_three_parts_find_each_other(tmp_path):
    sizes = {"num_attention_heads": 3, "num_key_value_heads": 3, "hidden_size": 48}
    save_random_model(tmp_path, LlamaConfig(**SIZES | sizes))
    request = submit(0, **REQUESTS[0])
    expected = run_all(engine_of(tmp_path, device="cpu"), {0: [request]}).token_ids[0]
    with led_engine(tmp_path, tensor_parallel=3) as leader:
        wait_until_built(leader)
        assert ask(leader, REQUESTS[:1])[0]["0"] == expected


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


@pytest.mark.parametrize(("settings", "message"), [
    ({"tensor_parallel": 4, "tensor_parallel_nodes": 3}, "tensor_parallel_nodes: 3 .* divides"),
    ({"tensor_parallel": 2, "tensor_parallel_nodes": 2}, "tensor_parallel_address: None .* host:"),
    ({"tensor_parallel": 2, "tensor_parallel_address": "a:1"}, "tensor_parallel_address: 'a:1'"),
    ({"tensor_parallel": 2, "tensor_parallel_nodes": 2, "tensor_parallel_address": "a:1",
      "num_engines": 2}, "num_engines: 2 .* 1 with tensor_parallel_nodes"),
])
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(InvalidArgument, match=message):
        ModelConfig(**settings)


def test_int4_weights_are_not_split():
    with pytest.raises(InvalidArgument, match=r"quantization: 'int4' .* none with tensor_parallel"):
        ModelConfig(tensor_parallel=2, quantization="int4")


@pytest.mark.parametrize(("address", "message"), [
    ("nonsense", "address: 'nonsense' is not allowed; allowed: host:port"),
    ("127.0.0.1:1", "no engine is at 127.0.0.1:1: "),
])
def test_following_nobody_says_so(address, message):
    result = CliRunner().invoke(app, ["follow", address, "--timeout-s", "1"])
    assert result.exit_code == 1
    assert message in result.output
