"""Answers over HTTP that come late, in odd pieces, or are left half-way."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from calls import WAIT_S
from event_server import event, serve_events
from tests.drills.waiting import until

from tritonlm.errors import EngineFailure
from tritonlm_client import AsyncClient, Client, DeadlineExceeded
from tritonlm_client.connection import CALL_TIMEOUT_S

ODD_TEXT = "a\u2028b\u0085c\u2029d\x1c\x0b"
"""Characters at which Python's own `splitlines` ends a line."""


def never(_send):
    threading.Event().wait(WAIT_S)


def drop_by_drop(send):
    while True:
        send(event())
        time.sleep(0.02)


def test_only_a_line_feed_ends_an_event(api):
    def script(send):
        whole = event(text_output=ODD_TEXT, finish_reason="stop")
        for place in range(0, len(whole), 7):
            send(whole[place : place + 7])
    with serve_events(script) as server:
        [chunk] = api.stream(server.url)
        assert chunk.text == ODD_TEXT


def test_what_is_no_json_is_an_error_of_the_server(api):
    with (serve_events(lambda send: send("data: <html>\n\n")) as server,
          pytest.raises(EngineFailure, match=f"{server.url}: it does not answer as Triton")):
        api.stream(server.url)


@pytest.mark.parametrize(("model", "script"), [
    ("generate", never), ("text_generation", never), ("generate", drop_by_drop)])
def test_a_timeout_bounds_the_whole_call(api, model, script):
    """And nothing is cancelled after it: the server has been told when to end by itself."""
    with serve_events(script) as server:
        start_s = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            api.call(server.url, "generate", "Hi", model=model, timeout_s=0.3)
        assert time.monotonic() - start_s < CALL_TIMEOUT_S / 2
        assert len(server.bodies) == 1


async def test_whoever_hangs_up_does_not_wait_long_for_a_server_that_is_stuck():
    with serve_events(never) as server:
        async with AsyncClient(server.url) as client:
            task = asyncio.create_task(client.generate("Hi", request_id="mine"))
            await until(lambda: server.bodies, "no request")
            start_s = time.monotonic()
            task.cancel()
            await asyncio.wait([task])
            assert time.monotonic() - start_s < CALL_TIMEOUT_S / 2
        assert [("cancel" in body, body["request_id"]) for body in server.bodies][1] == (
            True, "mine")


def test_a_stream_that_was_never_read_sends_nothing():
    with serve_events(never) as server:
        with Client(server.url) as client, client.stream("Hi"):
            pass
        assert server.bodies == []


@pytest.mark.filterwarnings("error")
async def test_an_async_stream_that_is_left_half_way_ends_quietly():
    complaints = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: complaints.append(context))
    with serve_events(drop_by_drop) as server:
        async with AsyncClient(server.url) as client:
            async for _ in client.stream("Hi"):
                break
            await asyncio.sleep(0)
        await asyncio.get_running_loop().shutdown_asyncgens()
    assert complaints == []
