"""SIGKILL of an engine, of a model's process and of the server, each under load."""

from __future__ import annotations

import signal

import pytest
from tests.drills.load import assert_both_sides_agree, connect, load, run_stream, settled
from tests.drills.processes import echo_engines
from tests.drills.waiting import until
from tests.metrics import samples, total
from tests.serving import ANNOUNCED, assert_nothing_is_left

NUM_CLIENTS = 16
STARTS = "tritonlm_engine_starts_total"


@pytest.fixture(scope="module")
def server(start_echo):
    return start_echo(num_engines=2)


async def assert_both_engines_run(server):
    await until(lambda: len(echo_engines(server.run_dir)) == 2, "it was not replaced")


async def test_an_engine_is_killed_and_only_its_own_requests_fail(server):
    before = await settled(server.metrics_url)
    starts = total(server.metrics_url, STARTS)
    async with load(server.http_url, NUM_CLIENTS) as tally:
        await until(lambda: tally.num_finished > NUM_CLIENTS, tally)
        echo_engines(server.run_dir)[1].kill()
        await until(lambda: tally.num_errors > 0, tally)
        num_finished = tally.num_finished
        await until(lambda: tally.num_finished > num_finished + 2 * NUM_CLIENTS, tally)
    await assert_both_engines_run(server)
    await until(lambda: total(server.metrics_url, STARTS) > starts, "no other has started")
    assert set(tally.outcomes) == {"length", "unavailable"}
    assert tally.num_errors <= NUM_CLIENTS, "those of one engine at most, and none but once"
    await assert_both_sides_agree(server.metrics_url, before, tally)


async def test_all_engines_are_killed_and_requests_wait_for_the_next(server):
    await assert_both_engines_run(server)
    before = await settled(server.metrics_url)
    async with load(server.http_url, NUM_CLIENTS) as tally:
        await until(lambda: tally.num_finished > NUM_CLIENTS, tally)
        for engine in echo_engines(server.run_dir).values():
            engine.kill()
        await until(lambda: tally.num_errors > 0, tally)
        num_finished = tally.num_finished
        await until(lambda: tally.num_finished > num_finished + 2 * NUM_CLIENTS, tally)
    assert set(tally.outcomes) == {"length", "unavailable"}
    await assert_both_sides_agree(server.metrics_url, before, tally)


async def test_both_engines_work_and_each_has_its_own_gauges(server):
    await assert_both_engines_run(server)
    name = "tritonlm_requests_running"

    def busy_engines():
        return {labels["engine"] for labels, value in samples(server.metrics_url, name) if value}

    async with load(server.http_url, NUM_CLIENTS):
        await until(lambda: busy_engines() == {"0", "1"}, "an engine has nothing to do")
    await until(lambda: total(server.metrics_url, name) == 0, "nothing should run")


@pytest.mark.timeout(300)
@pytest.mark.drill
@pytest.mark.parametrize("victim", ["generate", "detokenize", "tritonserver"])
async def test_a_process_of_the_server_is_killed_and_the_server_replaced(serve, victim):
    server = serve("--front-ends", "2")
    server.wait_for(ANNOUNCED)
    run_dir = server.run_dir()
    async with load(server.http_url, NUM_CLIENTS) as tally:
        await until(lambda: tally.num_finished > NUM_CLIENTS, tally)
        process = server.tritonserver() if victim == "tritonserver" else server.stub(victim)
        process.kill()
        await until(lambda: tally.outcomes["disconnected"] > 0, tally)
        await until(lambda: server.output.count(ANNOUNCED) == 2, server.output)
        num_finished = tally.num_finished
        await until(lambda: tally.num_finished > num_finished + NUM_CLIENTS, tally)
    assert tally.is_complete, tally
    assert_nothing_is_left(run_dir)
    run_dir = server.run_dir()
    assert server.end(signal.SIGINT) == 0
    assert_nothing_is_left(run_dir)


@pytest.mark.drill
async def test_the_launcher_is_killed_under_load_and_nothing_is_left(serve):
    server = serve()
    server.wait_for(ANNOUNCED)
    run_dir = server.run_dir()
    async with connect() as session, load(server.http_url, NUM_CLIENTS) as tally:
        await until(lambda: tally.num_finished > NUM_CLIENTS, tally)
        assert server.end(signal.SIGKILL) == -signal.SIGKILL
        assert_nothing_is_left(run_dir)
        assert await run_stream(session, server.http_url, tally) == "disconnected"
    assert tally.is_complete, tally
