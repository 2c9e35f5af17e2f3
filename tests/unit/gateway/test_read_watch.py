"""A client that reads nothing is cancelled, and told so when it reads again."""

from __future__ import annotations

import asyncio
import json
import socket
from urllib.parse import urlsplit

import pytest
import websockets
from tests.drills.waiting import until
from tests.fakes.triton_service import chunk
from tests.metrics import samples

from tritonlm.gateway.read_watch import ReadWatch

LIMIT_S = 0.3
TEXT = "x" * 2**16
NUM_CHUNKS = 1000
"""64 MiB: no socket holds so much."""
REQUESTS = "tritonlm_gateway_requests_total"


async def pour(request, send):
    for _ in range(NUM_CHUNKS):
        send(chunk(TEXT))
        await asyncio.sleep(0.001)
    send(chunk("", finish_reason="length", is_final=True))


async def drip(request, send):
    """Nothing waits for the client, who reads at once, for longer than the limit."""
    for place in range(4):
        send(chunk("x", finish_reason="length" if place == 3 else "", is_final=place == 3))
        await asyncio.sleep(LIMIT_S / 2)


def num_slow(url, path):
    return sum(value for labels, value in samples(f"{url}/metrics", REQUESTS)
               if labels["path"] == path and labels["status"] == "408")


async def connect(url):
    """A connection of which the kernel keeps little that is unread."""
    address, connection = urlsplit(url), socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, (address.hostname, address.port))
    return connection


async def post(url, path, body):
    """A connection that has sent a request, and whose client reads nothing yet."""
    connection, data = await connect(url), json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}\r\n\r\n"
    await asyncio.get_running_loop().sock_sendall(connection, head.encode() + data)
    return connection


async def read_events(connection):
    """The data of the events up to the end of the response."""
    loop, text = asyncio.get_running_loop(), b""
    while not text.endswith(b"\r\n0\r\n\r\n"):
        text += await asyncio.wait_for(loop.sock_recv(connection, 2**20), 30)
    return [line.removeprefix(b"data: ") for line in text.split(b"\n")
            if line.startswith(b"data: ")]


@pytest.mark.parametrize(("path", "body", "settings"), [
    ("/v1/completions", {"model": "generate", "prompt": "a", "stream": True}, {}),
    ("/v1/completions", {"model": "generate", "prompt": "a", "stream": True, "temperature": 0},
     {"cache_mib": 1}),
    ("/generate_stream", {"text_input": "a"}, {}),
])
async def test_a_stream_that_nobody_reads(gateway, path, body, settings):
    async with gateway(pour, slow_reader_timeout_s=LIMIT_S, **settings) as (url, server):
        before = await asyncio.to_thread(num_slow, url, path)
        with await post(url, path, body) as connection:
            await until(lambda: server.cancelled, "its work goes on")
            events = await read_events(connection)
        assert len(events) < NUM_CHUNKS
        error = json.loads(events[-1])["error"]
        assert (error["code"], error["message"]) == (
            "slow_reader", f"nothing was read for slow_reader_timeout_s, {LIMIT_S} s")
        assert await asyncio.to_thread(num_slow, url, path) == before + 1


async def test_a_websocket_that_nobody_reads(gateway):
    async with gateway(pour, slow_reader_timeout_s=LIMIT_S) as (url, server):
        path = "/ws generate"
        before = await asyncio.to_thread(num_slow, url, path)
        async with websockets.connect(f"ws{url.removeprefix('http')}/ws", max_queue=1,
                                      max_size=None, compression=None,
                                      sock=await connect(url)) as connection:
            for name in "ab":
                await connection.send(json.dumps(
                    {"type": "generate", "id": name, "text_input": "a"}))
            await until(lambda: len(server.cancelled) == 2, "its work goes on")
            errors = {}
            while len(errors) < 2:
                message = json.loads(await connection.recv())
                if message["type"] == "error":
                    errors[message["id"]] = message["error"]["code"]
            assert errors == {"a": "slow_reader", "b": "slow_reader"}
            server.script = drip
            await connection.send(json.dumps({"type": "generate", "id": "c", "text_input": "a"}))
            while (message := json.loads(await connection.recv()))["type"] == "chunk":
                pass
            assert message["type"] == "done"
        assert await asyncio.to_thread(num_slow, url, path) == before + 2


async def test_a_stream_whose_tokens_are_slow_to_come(gateway):
    async with gateway(drip, slow_reader_timeout_s=LIMIT_S) as (url, server):
        with await post(url, "/generate_stream", {"text_input": "a"}) as connection:
            events = await read_events(connection)
        assert not any(b"error" in event for event in events)
        assert not server.cancelled


async def test_each_stall_is_told_of_once():
    given_up, stall = [], asyncio.Event()
    watch = ReadWatch(0.02, given_up.append)
    for number in (1, 2):
        sending = asyncio.create_task(watch.sent(stall.wait()))
        await until(lambda number=number: len(given_up) == number, "it is not told")
        await asyncio.sleep(0.1)
        stall.set()
        await sending
        stall.clear()
        await watch.sent(asyncio.sleep(0))
    watch.close()
    assert len(given_up) == 2
