"""A server that is told to stop, and a model that is unloaded, while requests run."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from contextlib import ExitStack, contextmanager

import pytest
from tests.drills.load import STREAM, Tally, connect, run_stream
from tests.drills.waiting import until
from tests.fakes.echo_server import echo_server
from tests.metrics import total

from tritonlm.server import launcher
from tritonlm.server.settings import ServerSettings

GRACE_S = 3
NUM_STREAMS = 8
STEP_MS = 10
SHORT = STREAM | {"max_tokens": 100}
"""1 s: within the grace time."""
LONG = STREAM | {"max_tokens": 4000}
"""40 s: not."""

pytestmark = pytest.mark.drill


@contextmanager
def serving():
    settings = ServerSettings(http_port=0, grpc_port=0, metrics_port=0, front_ends=2,
                              exit_timeout_s=GRACE_S)
    with echo_server(settings, STEP_MS, ends_at_once=False, unload_timeout_s=GRACE_S) as server:
        yield server


async def begin_streams(session, server, tally):
    """As many short streams as long ones, all of which run."""
    streams = [asyncio.create_task(run_stream(session, server.http_url, tally, body))
               for body in (SHORT, LONG) for _ in range(NUM_STREAMS)]
    await until(lambda: len(tally.first_text_s) == len(streams), "not all of them run")
    return asyncio.gather(*streams)


async def test_a_server_that_stops_lets_finish_what_can_and_tells_the_others():
    with ExitStack() as running:
        server = running.enter_context(serving())
        async with connect() as session:
            tally = Tally()
            streams = await begin_streams(session, server, tally)
            began_s = time.monotonic()
            stopping = asyncio.create_task(asyncio.to_thread(running.close))
            await streams
            assert tally.outcomes == {"length": NUM_STREAMS, "unavailable": NUM_STREAMS}
            assert GRACE_S <= time.monotonic() - began_s < 2 * GRACE_S
            await stopping


async def test_a_model_that_is_unloaded_lets_finish_what_can_and_tells_the_others(monkeypatch):
    plain_command = launcher._command
    monkeypatch.setattr(launcher, "_command", lambda *given: [
        *plain_command(*given), "--model-control-mode=explicit", "--load-model=*"])
    with serving() as server:
        async with connect() as session:
            tally = Tally()
            streams = await begin_streams(session, server, tally)
            began_s = time.monotonic()
            url = f"{server.http_url}/v2/repository/models/generate/unload"
            unloading = asyncio.create_task(asyncio.to_thread(
                urllib.request.urlopen, urllib.request.Request(url, b"{}"), timeout=30))
            await streams
            assert tally.outcomes == {"length": NUM_STREAMS, "unavailable": NUM_STREAMS}
            assert GRACE_S <= time.monotonic() - began_s < 3 * GRACE_S
            await unloading
            assert await run_stream(session, server.http_url, tally, SHORT) not in ("length",
                                                                                   "hung")
        await until(lambda: total(server.metrics_url, "tritonlm_requests_running") == 0,
                    "work is left")
