"""More requests than there is room for: who waits, who goes first, and who is turned away."""

from __future__ import annotations

import asyncio
import json
import re
import time
from contextlib import asynccontextmanager

import pytest
from tests.drills.load import STREAM, Tally, connect, run_stream, settled
from tests.drills.waiting import until
from tests.metrics import total

NUM_ROWS, MAX_WAITING, MAX_WAITING_TOKENS = 2, 4, 100
LONG = STREAM | {"max_tokens": 3000}
LONG_S = 30
SHORT = STREAM | {"max_tokens": 2}


@pytest.fixture(scope="module")
def server(start_echo):
    return start_echo(step_ms=10, max_num_seqs=NUM_ROWS, max_waiting_requests=MAX_WAITING,
                      max_waiting_tokens=MAX_WAITING_TOKENS)


@pytest.fixture
async def session():
    async with connect() as session:
        yield session


def waiting(server):
    return total(server.metrics_url, "tritonlm_requests_waiting")


@asynccontextmanager
async def occupied(session, server, number, **options):
    """The engine has `number` long requests, of which those that run are given."""
    async def hold(is_served):
        url = f"{server.http_url}/v2/models/generate/generate_stream"
        async with session.post(url, json=LONG | options) as answer:
            is_served.set()
            async for _ in answer.content:
                pass

    holders = []
    for place in range(number):
        is_served = asyncio.Event()
        holders.append(asyncio.create_task(hold(is_served)))
        if place < NUM_ROWS:
            await is_served.wait()
    await until(lambda: waiting(server) == max(number - NUM_ROWS, 0), "not all wait")
    yield holders[:NUM_ROWS]
    for holder in holders:
        holder.cancel()
    await asyncio.gather(*holders, return_exceptions=True)
    names = ("requests_running", "requests_waiting")
    await until(lambda: not any(total(server.metrics_url, f"tritonlm_{name}") for name in names),
                "not all are gone")


async def ask(session, server, model="generate", **options):
    """The only event of a request that is answered once."""
    async with session.post(f"{server.http_url}/v2/models/{model}/generate",
                            json=SHORT | {"stream": False} | options) as answer:
        return json.loads(await answer.text())


@pytest.mark.parametrize("model", ["generate", "complete", "text_generation"])
async def test_a_full_queue_turns_away_at_once_with_a_hint(session, server, model):
    before = await settled(server.metrics_url)
    async with occupied(session, server, NUM_ROWS + MAX_WAITING):
        for _ in range(4):  # all front ends share the queue
            began_s = time.monotonic()
            error = (await ask(session, server, model))["error"]
            assert time.monotonic() - began_s < LONG_S / 2
            assert re.search("UNAVAILABLE: 4 requests wait, the most that max_waiting_requests "
                             r"allows; retry in \d+ s$", error), error
    counts = await settled(server.metrics_url) - before
    assert (counts["unavailable"], counts["cancelled"]) == (4, NUM_ROWS + MAX_WAITING)
    assert (await ask(session, server, model))["finish_reason"] == "length"


async def test_waiting_prompts_are_bounded_in_tokens(session, server):
    async with occupied(session, server, NUM_ROWS + 1):
        error = (await ask(session, server, text_input="word " * 120))["error"]
        assert "more than max_waiting_tokens allows, 100; retry in" in error


async def test_a_request_that_waits_has_its_deadline(session, server):
    async with occupied(session, server, NUM_ROWS):
        began_s = time.monotonic()
        answer = await ask(session, server, timeout_ms=300)
        assert time.monotonic() - began_s >= 0.3
        assert (answer["finish_reason"], answer["num_output_tokens"]) == ("deadline", 0)


async def test_a_request_that_waits_can_be_cancelled(session, server):
    async with occupied(session, server, NUM_ROWS):
        waits = asyncio.create_task(ask(session, server, request_id="mine"))
        await until(lambda: waiting(server) == 1, "it does not wait")
        assert (await ask(session, server, cancel=True, request_id="mine"))["finish_reason"]
        assert (await waits)["finish_reason"] == "cancelled"


async def finish_in_order(session, server, requests, *options):
    """Who of the waiting is served when room is made: places in `options` as they finish."""
    order = []

    async def client(place, chosen):
        await run_stream(session, server.http_url, Tally(), SHORT | chosen)
        order.append(place)

    clients = []
    for place, chosen in enumerate(options):
        clients.append(asyncio.create_task(client(place, chosen)))
        await until(lambda: waiting(server) == len(clients), "it does not wait")
    requests[0].cancel()
    await asyncio.gather(*clients)
    return order


async def test_the_urgent_go_first(session, server):
    priorities = [{"priority": name} for name in ("low", "normal", "high", "urgent")]
    async with occupied(session, server, NUM_ROWS, priority="urgent") as requests:
        assert await finish_in_order(session, server, requests, *priorities) == [3, 2, 1, 0]


async def test_users_take_turns(session, server):
    users = [{"user": name} for name in ("ann", "ann", "ann", "bob")]
    async with occupied(session, server, NUM_ROWS, user="ann") as requests:
        order = await finish_in_order(session, server, requests, *users)
    assert order.index(3) <= 1
