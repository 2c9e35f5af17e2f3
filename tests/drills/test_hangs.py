"""Engines that stand still, and servers that are made to."""

from __future__ import annotations

import asyncio
import time

import pytest
from tests.drills.load import assert_both_sides_agree, load, settled
from tests.drills.processes import echo_engines, has_ended
from tests.drills.waiting import until
from tests.metrics import total

from tritonlm.server import processes

NUM_CLIENTS = 16
HANG_TIMEOUT_S = 1.0
STUB_ANSWER_S = 1.0


@pytest.fixture(scope="module")
def server(start_echo):
    return start_echo(num_engines=2, hang_timeout_s=HANG_TIMEOUT_S)


async def test_an_engine_that_hangs_is_killed_and_replaced(server):
    before = await settled(server.metrics_url)
    async with load(server.http_url, NUM_CLIENTS) as tally:
        await until(lambda: tally.num_finished > NUM_CLIENTS, tally)
        engine = echo_engines(server.run_dir)[0]
        engine.suspend()
        hung_s = time.monotonic()
        await until(lambda: tally.num_errors > 0, tally)
        assert time.monotonic() - hung_s > HANG_TIMEOUT_S
        await until(lambda: has_ended(engine), "it is not killed")
        await until(lambda: len(echo_engines(server.run_dir)) == 2, "it was not replaced")
    assert set(tally.outcomes) == {"length", "unavailable"}
    assert tally.num_errors <= NUM_CLIENTS, "those of one engine at most, and none but once"
    await assert_both_sides_agree(server.metrics_url, before, tally)


async def test_an_idle_engine_is_no_hanging_one(server):
    engines = echo_engines(server.run_dir)
    await asyncio.sleep(3 * HANG_TIMEOUT_S)
    assert echo_engines(server.run_dir) == engines


async def test_a_machine_that_stood_still_is_no_hanging_engine(server):
    before, engines = await settled(server.metrics_url), echo_engines(server.run_dir)
    everything = processes.find(server.run_dir)
    async with load(server.http_url, NUM_CLIENTS) as tally:
        await until(lambda: tally.num_finished > NUM_CLIENTS, tally)
        for process in everything:
            process.suspend()
        await asyncio.sleep(3 * HANG_TIMEOUT_S)
        # Triton asks its stubs whether they live, and takes no answer for a dead one.
        for process in sorted(everything, key=lambda process: process.pid == server.pid):
            await asyncio.sleep(STUB_ANSWER_S * (process.pid == server.pid))
            process.resume()
        num_finished = tally.num_finished
        await until(lambda: tally.num_finished > num_finished + NUM_CLIENTS, tally)
    assert echo_engines(server.run_dir) == engines
    assert set(tally.outcomes) == {"length"}
    await assert_both_sides_agree(server.metrics_url, before, tally)
    await until(lambda: total(server.metrics_url, "tritonlm_requests_running") == 0,
                "a request still counts as running")
