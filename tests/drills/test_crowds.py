"""Clients that come in crowds, and vanish."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

import psutil
import pytest
from tests.drills.load import (
    STREAM,
    Tally,
    assert_both_sides_agree,
    connect,
    counted,
    run_stream,
    settled,
)
from tests.drills.waiting import until
from tests.metrics import total

NUM_CLIENTS = 500
NOTICED_S = 0.2
FEW = 10
"""Descriptors that a server may open once and keep."""
LONG = STREAM | {"max_tokens": 4000}


@pytest.fixture(scope="module")
def server(start_echo):
    return start_echo(step_ms=20, max_num_seqs=512)


def url_of(server):
    return f"{server.http_url}/v2/models/generate/generate_stream"


async def until_idle(server):
    names = ("requests_running", "requests_waiting", "kv_blocks_used")
    await until(lambda: not any(total(server.metrics_url, f"tritonlm_{name}") for name in names),
                "the engine works for nobody")


async def cancel(session, server, request_id):
    """Whether a request of that id ran."""
    body = {"cancel": True, "request_id": request_id, "stream": True}
    async with session.post(url_of(server), json=body) as answer:
        event = json.loads((await answer.content.readline()).removeprefix(b"data: "))
    assert event.get("finish_reason") == "cancelled" or "NOT_FOUND" in event["error"]
    return "error" not in event


@pytest.mark.parametrize("is_closed", [False, True])
async def test_the_work_for_a_client_that_vanishes_is_ended_in_time(server, is_closed):
    found = []
    async with connect() as session:
        for number in range(5):
            request_id = f"{is_closed} {number}"
            answer = await session.post(url_of(server), json=LONG | {"request_id": request_id})
            await answer.content.readline()
            if is_closed:
                answer.close()
            await asyncio.sleep(NOTICED_S)
            found.append(await cancel(session, server, request_id))
            answer.close()
    # A machine that is busy may be late now and then; a server that does not look is each time.
    assert all(found) if not is_closed else not all(found)
    await until_idle(server)


async def test_500_clients_vanish_in_mid_stream_and_are_all_counted(server):
    before = await settled(server.metrics_url)
    num_open = psutil.Process(server.pid).num_fds()

    async def read_a_little(session):
        answer = await session.post(url_of(server), json=LONG)
        assert b"data:" in await answer.content.readline()
        return answer

    async with connect() as session:
        answers = await asyncio.gather(*(read_a_little(session) for _ in range(NUM_CLIENTS)))
        assert counted(server.metrics_url) == before, "none of them should be over"
        for answer in answers:
            answer.close()
    await until_idle(server)
    assert await settled(server.metrics_url) - before == {"cancelled": NUM_CLIENTS}
    await until(lambda: psutil.Process(server.pid).num_fds() <= num_open + FEW,
                lambda: f"{psutil.Process(server.pid).num_fds()} are open, {num_open} were")


async def test_500_clients_vanish_before_they_have_an_answer(server):
    async def vanish(session):
        with suppress(asyncio.TimeoutError):
            answer = await asyncio.wait_for(session.post(url_of(server), json=LONG), 0.05)
            answer.close()

    async with connect() as session:
        await asyncio.gather(*(vanish(session) for _ in range(NUM_CLIENTS)))
    await until_idle(server)


async def test_the_next_client_is_served_as_if_nothing_had_been(server):
    before, tally = await settled(server.metrics_url), Tally()
    async with connect() as session:
        assert await run_stream(session, server.http_url, tally) == "length"
    await assert_both_sides_agree(server.metrics_url, before, tally)
