"""One front end between a fast engine and 64 clients, all of them on a machine of two cores."""

from __future__ import annotations

import os
import time

import psutil
import pytest
from benchmarks.grpc_load import Load
from benchmarks.serving_load import measure

NUM_STREAMS = 64
STEP_MS = 2.5
"""The engine's: 25,600 tokens a second with all streams."""
MIN_TOKENS_PER_S = 20_000
MAX_TTFT_P99_MS = 50
NUM_TRIES = 3
"""Of which one has to do: something else may want the machine for a moment."""
MAX_SHARE_OF_OTHERS = 0.05
"""Of the machine's time: with more, there is nothing to be said of speed."""


@pytest.fixture(scope="module")
def server(start_echo):
    return start_echo(step_ms=STEP_MS, front_ends=1, max_num_seqs=NUM_STREAMS,
                      max_num_batched_tokens=4096)


def busy_s():
    """Processor time of the machine, but for what was idle."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - times.iowait


def used_s(server):
    """Processor time of the server, and of this process and its children that have ended."""
    main = psutil.Process(server.pid)
    times = [process.cpu_times() for process in (main, *main.children(recursive=True))]
    mine = os.times()
    return sum(each.user + each.system for each in times) + sum(mine[:4])


@pytest.mark.timeout(300)
def test_a_front_end_carries_20_000_tokens_a_second(server):
    load = Load(server.grpc_url, "generate", NUM_STREAMS, 5 * NUM_STREAMS, num_prompt_tokens=32,
                num_output_tokens=512, vocab_size=256, seed=1)
    began_s, busy_before_s, used_before_s = time.monotonic(), busy_s(), used_s(server)
    speeds = [measure(load, 2) for _ in range(NUM_TRIES)]
    others_s = busy_s() - busy_before_s - (used_s(server) - used_before_s)
    assert all(speed.num_failed == 0 for speed in speeds)
    share = others_s / (time.monotonic() - began_s) / (os.cpu_count() or 1)
    if share > MAX_SHARE_OF_OTHERS:
        pytest.skip(f"others had {share:.0%} of this machine; {speeds}")
    assert any(speed.output_tokens_per_s >= MIN_TOKENS_PER_S
               and speed.ttft_p99_ms <= MAX_TTFT_P99_MS for speed in speeds), speeds
