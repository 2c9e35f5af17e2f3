"""A client that goes away cancels its work within 200 ms."""

import asyncio
import json
import logging
import time

import aiohttp
import pytest
import websockets
from tests.drills.waiting import LIMIT_S as LIMIT_OF_TEST_S
from tests.drills.waiting import until
from tests.fakes.triton_service import chunk

from tritonlm.gateway.failures import CLIENT_GONE_STATUS
from tritonlm.gateway.http_protocol import MAX_HEAD_BYTES

LIMIT_S = 0.2
NUM_TRIES = 5
"""A machine that is busy is late now and then; a gateway that does not look is late each time."""
CHAT = {"model": "generate", "messages": [{"role": "user", "content": "Hi"}]}


async def hang(request, send):
    """One piece, and then nothing; what is not streamed hears nothing at all."""
    if any(tensor.name == "stream" for tensor in request.inputs):
        send(chunk("a"))
    await asyncio.sleep(60)


async def cancelled_after_s(server, num_requests):
    start_s = time.monotonic()
    await until(lambda: len(server.cancelled) >= num_requests, "it is not cancelled")
    return time.monotonic() - start_s


async def assert_noticed_in_time(gateway, leave, num_requests):
    """`leave(url, server)` sends so many requests and goes away."""
    took_s = []
    for _ in range(NUM_TRIES):
        async with gateway(hang) as (url, server):
            await leave(url, server)
            took_s.append(await cancelled_after_s(server, num_requests))
        if took_s[-1] < LIMIT_S:
            return
    pytest.fail(f"noticed after {took_s} s")


@pytest.mark.parametrize(("path", "body"), [
    ("/v1/chat/completions", CHAT), ("/v1/chat/completions", {**CHAT, "stream": True}),
    ("/v1/completions", {"model": "generate", "prompt": ["a", "b"], "stream": True}),
    ("/v1/completions", {"model": "generate", "prompt": ["a", "b"]}),
    ("/generate_stream", {"text_input": "a"}),
])
async def test_http(gateway, path, body):
    num_requests = len(body["prompt"]) if "prompt" in body else 1

    async def leave(url, server):
        reader, writer = await asyncio.open_connection(*url.removeprefix("http://").split(":"))
        data = json.dumps(body).encode()
        writer.write(f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}\r\n\r\n"
                     .encode() + data)
        await until(lambda: len(server.requests) == num_requests, "no request")
        if body.get("stream"):
            await reader.readuntil(b"data: ")
        writer.close()

    await assert_noticed_in_time(gateway, leave, num_requests)


async def test_a_request_with_another_one_behind_it(gateway):
    async def leave(url, server):
        reader, writer = await asyncio.open_connection(*url.removeprefix("http://").split(":"))
        data = json.dumps({"text_input": "a"}).encode()
        writer.write(2 * (f"POST /generate_stream HTTP/1.1\r\nhost: x\r\ncontent-length: "
                          f"{len(data)}\r\n\r\n".encode() + data))
        await reader.readuntil(b"data: ")
        writer.close()

    await assert_noticed_in_time(gateway, leave, 1)


async def test_a_head_without_end(gateway):
    async with gateway(hang) as (url, _):
        reader, writer = await asyncio.open_connection(*url.removeprefix("http://").split(":"))
        writer.write(b"GET / HTTP/1.1\r\nx: ")
        await asyncio.sleep(0.05)  # a head that is longer comes in several parts
        writer.write(b"y" * (MAX_HEAD_BYTES + 1))
        told = await asyncio.wait_for(reader.read(), LIMIT_OF_TEST_S)
        assert told.startswith(b"HTTP/1.1 400 ")
        assert b"at most 65,536 bytes" in told
        writer.close()


async def send_and_hear(url, query, *request_ids):
    """An open connection on which each request has had its first piece."""
    socket = await websockets.connect(f"ws{url.removeprefix('http')}/ws{query}")
    for request_id in request_ids:
        await socket.send(json.dumps({"type": "generate", "id": request_id, "text_input": "Hi"}))
    for _ in range(1 + len(request_ids)):  # the session is told first
        await socket.recv()
    return socket


async def test_websocket(gateway):
    async def leave(url, _):
        (await send_and_hear(url, "", *"abc")).transport.abort()

    await assert_noticed_in_time(gateway, leave, 3)


async def test_a_window_that_has_passed_ends_a_session(gateway):
    async with gateway(hang) as (url, server):
        socket = await send_and_hear(url, "?window_s=1", "a")
        socket.transport.abort()
        assert await cancelled_after_s(server, 1) > 0.9


async def test_a_clean_close_ends_a_session_at_once(gateway):
    async def leave(url, _):
        await (await send_and_hear(url, "?window_s=60", "a")).close()

    await assert_noticed_in_time(gateway, leave, 1)


async def test_a_request_that_is_followed_by_a_close_at_once(gateway):
    """Both are in one segment, so that the socket ends before the request's task has begun."""
    def frame(opcode, data):
        assert len(data) < 126
        return bytes([0x80 | opcode, 0x80 | len(data), 0, 0, 0, 0]) + data

    async with gateway(hang) as (url, server):
        reader, writer = await asyncio.open_connection(*url.removeprefix("http://").split(":"))
        writer.write(b"GET /ws HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\n"
                     b"connection: upgrade\r\nsec-websocket-version: 13\r\n"
                     b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
        await reader.readuntil(b'"session"')
        message = json.dumps({"type": "generate", "id": "a", "text_input": "Hi"}).encode()
        writer.write(frame(1, message) + frame(8, (1000).to_bytes(2, "big")))
        await until(lambda: server.requests, "no request")
        await until(lambda: server.cancelled == [server.requests[0].id], "it goes on")
        writer.close()


async def test_a_client_that_goes_away_amid_its_body_is_no_fault_of_ours(gateway, caplog):
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(json.loads(record.getMessage()))
    async with gateway(hang) as (url, _):
        logging.getLogger("tritonlm.access").addHandler(handler)
        _, writer = await asyncio.open_connection(*url.removeprefix("http://").split(":"))
        writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n{")
        await writer.drain()
        writer.close()
        await until(lambda: lines, "no line")
        logging.getLogger("tritonlm.access").removeHandler(handler)
    assert lines[0]["status"] == CLIENT_GONE_STATUS
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_an_answer_that_is_over_is_not_cancelled(gateway):
    async def answer(request, send):
        send(chunk("a", finish_reason="stop", is_final=True))

    async with gateway(answer) as (url, server), aiohttp.ClientSession() as session:
        for stream in (True, False):
            async with session.post(f"{url}/v1/chat/completions",
                                    json={**CHAT, "stream": stream}) as response:
                assert response.status == 200
                await response.read()
        await asyncio.sleep(0.05)
        assert server.cancelled == []
