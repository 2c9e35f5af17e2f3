"""All kinds of requests, while engines are killed and hang: each ends once, and is counted once."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from itertools import count

import psutil
import pytest
from tests.drills.load import (
    FINISHED,
    PAUSE_S,
    STREAM,
    Tally,
    connect,
    counted,
    run_stream,
    settled,
)
from tests.drills.processes import echo_engines
from tests.drills.waiting import until
from tests.metrics import total

from tritonlm.engine import heartbeat

NUM_CLIENTS = 40
NUM_STRIKES = 8
REQUEST_IDS = count()
MODELS = ("generate", "generate", "text_generation", "complete")


@pytest.fixture(scope="module")
def server(start_echo):
    return start_echo(step_ms=3, num_engines=2, hang_timeout_s=1.0, max_num_seqs=32,
                      max_waiting_requests=20, max_unfinished_requests=60)


def any_request(draw):
    """A model and a body; one in twenty is refused."""
    body = STREAM | {"text_input": "the quick brown fox " * draw.randint(1, 20),
                     "max_tokens": draw.choice([1, 5, 60, 300]),
                     "request_id": f"chaos-{next(REQUEST_IDS)}"}
    for share, changes in ((0.2, {"n": 3, "stream": False}), (0.1, {"timeout_ms": 50}),
                           (0.05, {"temperature": -1.0}), (0.1, {"logprobs": 2})):
        if draw.random() < share:
            body |= changes
    model = draw.choice(MODELS)
    return model, body | {"stream": False} if model == "complete" else body


async def client(session, server, draw, tally, cancels, is_over):
    """Sends one request after the other, and cancels some of them."""
    while not is_over.is_set():
        model, body = any_request(draw)
        request = asyncio.create_task(run_stream(session, server.http_url, tally, body, model))
        if draw.random() < 0.15:
            await asyncio.sleep(0.3 * draw.random())
            await run_stream(session, server.http_url, cancels,
                             {"cancel": True, "request_id": body["request_id"], "stream": True})
        if await request not in FINISHED:
            await asyncio.sleep(PAUSE_S)


async def strike(server, draw):
    """Kill an engine, or have it hang if it has come up; now and then both at once."""
    engines = list(echo_engines(server.run_dir).items())
    targets = engines if draw.random() < 0.2 else draw.sample(engines, min(1, len(engines)))
    for index, engine in targets:
        is_up = heartbeat.read(server.run_dir / "generate-1" / str(index) / "engine.heartbeat")
        with suppress(psutil.NoSuchProcess):
            engine.suspend() if is_up and draw.random() < 0.5 else engine.kill()


@pytest.mark.drill
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1, 2])
async def test_whatever_happens_each_request_ends_once(server, seed):
    draw, tally, cancels, is_over = random.Random(seed), Tally(), Tally(), asyncio.Event()
    before = await settled(server.metrics_url)
    async with connect() as session:
        clients = [asyncio.create_task(client(session, server, draw, tally, cancels, is_over))
                   for _ in range(NUM_CLIENTS)]
        for _ in range(NUM_STRIKES):
            await asyncio.sleep(draw.uniform(2, 4))
            await strike(server, draw)
        num_finished = tally.num_finished
        await until(lambda: tally.num_finished > num_finished + NUM_CLIENTS, "it does not recover")
        is_over.set()
        await asyncio.gather(*clients)
    assert tally.is_complete, tally
    assert cancels.is_complete, cancels
    assert {"length", "cancelled", "deadline", "invalid_arg", "unavailable"} <= {*tally.outcomes}
    seen = tally.outcomes + cancels.outcomes
    seen["cancelled"] -= cancels.outcomes["cancelled"]
    seen["cancel"] = cancels.outcomes["cancelled"]
    await until(lambda: counted(server.metrics_url) - before == +seen,
                lambda: f"server: {counted(server.metrics_url) - before}, clients: {seen}")
    for state in ("unfinished", "running", "waiting"):
        assert total(server.metrics_url, f"tritonlm_requests_{state}") == 0, state
