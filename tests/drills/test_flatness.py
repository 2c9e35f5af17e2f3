"""Thousands of streams, one after the other and at once: all complete, and nothing is left."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from tests.drills.waiting import until
from tests.metrics import total

from tritonlm.bench.load import Load
from tritonlm.bench.processes import measure
from tritonlm.bench.summary import Summary

NUM_STREAMS = 10_000
NUM_AT_ONCE = 1_000
NUM_TOKENS = 8
MIB = 2**20
MAX_GROWTH_MIB = 16
"""Of a process: what its allocator keeps differs from time to time."""


@pytest.fixture(scope="module")
def server(start_echo):
    return start_echo(step_ms=2, front_ends=2, max_num_seqs=NUM_AT_ONCE,
                      max_num_batched_tokens=4096)


async def run_load(server, num_requests, concurrency, num_tokens=NUM_TOKENS):
    load = Load(url=server.grpc_url, num_prompts=num_requests, max_concurrency=concurrency,
                input_len=16, output_len=num_tokens, seed=1, ignore_eos=True, num_warmups=0,
                has_stream_each=True)
    return Summary.of(await asyncio.to_thread(measure, load, 2))


@dataclass(frozen=True)
class Holdings:
    """What the processes of a server have, by process id."""

    rss_mib: dict[int, float]
    num_fds: dict[int, int]
    shared_memory_mib: float

    @classmethod
    def of(cls, server):
        main = psutil.Process(server.pid)
        processes = [main, *main.children(recursive=True)]
        run = f"{server.run_dir.parent.name}-{server.run_dir.name}-"
        return cls({one.pid: one.memory_info().rss / MIB for one in processes},
                   {one.pid: one.num_fds() for one in processes},
                   sum(path.stat().st_blocks * 512
                       for path in Path("/dev/shm").glob(f"{run}*")) / MIB)


async def until_quiet(server, num_fds):
    await until(lambda: not total(server.metrics_url, "tritonlm_requests_unfinished"),
                "requests are left")
    await until(lambda: sum(Holdings.of(server).num_fds.values()) <= sum(num_fds.values()) + 2,
                lambda: f"descriptors are left: {Holdings.of(server).num_fds} of {num_fds}")


@pytest.mark.timeout(400)
@pytest.mark.drill
async def test_ten_thousand_streams_leave_nothing_behind(server):
    idle = Holdings.of(server)
    await run_load(server, 1_000, 64)
    await until_quiet(server, idle.num_fds)
    before = Holdings.of(server)
    counted = total(server.metrics_url, "tritonlm_output_tokens_total")
    speed = await run_load(server, NUM_STREAMS, 64)
    assert (speed.num_requests, speed.num_failed) == (NUM_STREAMS, 0), speed.first_error
    await until_quiet(server, before.num_fds)
    after = Holdings.of(server)
    assert after.rss_mib.keys() == before.rss_mib.keys()
    growth = {pid: after.rss_mib[pid] - before.rss_mib[pid] for pid in before.rss_mib}
    assert max(growth.values()) < MAX_GROWTH_MIB, growth
    assert after.shared_memory_mib <= before.shared_memory_mib
    counted = total(server.metrics_url, "tritonlm_output_tokens_total") - counted
    assert counted == NUM_STREAMS * NUM_TOKENS


async def test_a_thousand_streams_at_once_complete(server):
    speed = await run_load(server, NUM_AT_ONCE, NUM_AT_ONCE, num_tokens=50)
    assert (speed.num_requests, speed.num_failed) == (NUM_AT_ONCE, 0), speed.first_error
    assert speed.num_output_tokens == NUM_AT_ONCE * 50
