"""A client that goes away cancels its work within 200 ms."""

import asyncio
import json
import time

import aiohttp
import pytest
import websockets
from tests.fakes.triton_service import chunk

LIMIT_S = 0.2
CHAT = {"model": "generate", "messages": [{"role": "user", "content": "Hi"}]}


async def hang(request, send):
    """One piece, and then nothing; what is not streamed hears nothing at all."""
    if any(tensor.name == "stream" for tensor in request.inputs):
        send(chunk("a"))
    await asyncio.sleep(60)


async def cancelled_after_s(server, num_requests):
    start_s = time.monotonic()
    while len(server.cancelled) < num_requests:
        assert time.monotonic() < start_s + 5
        await asyncio.sleep(0.001)
    return time.monotonic() - start_s


@pytest.mark.parametrize(("path", "body"), [
    ("/v1/chat/completions", CHAT), ("/v1/chat/completions", {**CHAT, "stream": True}),
    ("/v1/completions", {"model": "generate", "prompt": ["a", "b"], "stream": True}),
    ("/v1/completions", {"model": "generate", "prompt": ["a", "b"]}),
    ("/generate_stream", {"text_input": "a"}),
])
async def test_http(gateway, path, body):
    async with gateway(hang) as (url, server):
        reader, writer = await asyncio.open_connection(*url.removeprefix("http://").split(":"))
        data = json.dumps(body).encode()
        writer.write(f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}\r\n\r\n"
                     .encode() + data)
        num_requests = len(body["prompt"]) if "prompt" in body else 1
        while len(server.requests) < num_requests:
            await asyncio.sleep(0.005)
        if body.get("stream"):
            await reader.readuntil(b"data: ")
        writer.close()
        assert await cancelled_after_s(server, num_requests) < LIMIT_S


async def test_websocket(gateway):
    async with gateway(hang) as (url, server):
        async with websockets.connect(f"ws{url.removeprefix('http')}/ws") as socket:
            for request_id in "abc":
                await socket.send(json.dumps(
                    {"type": "generate", "id": request_id, "text_input": "Hi"}))
            for _ in range(4):
                await socket.recv()
            socket.transport.abort()
        assert await cancelled_after_s(server, 3) < LIMIT_S


async def test_a_window_that_has_passed_ends_a_session(gateway):
    async with gateway(hang) as (url, server):
        async with websockets.connect(f"ws{url.removeprefix('http')}/ws?window_s=1") as socket:
            await socket.send(json.dumps({"type": "generate", "id": "a", "text_input": "Hi"}))
            for _ in range(2):
                await socket.recv()
            socket.transport.abort()
        await asyncio.sleep(0.3)
        assert server.cancelled == []
        assert 0.5 < await cancelled_after_s(server, 1) < 3


async def test_a_clean_close_ends_a_session_at_once(gateway):
    async with gateway(hang) as (url, server):
        async with websockets.connect(f"ws{url.removeprefix('http')}/ws?window_s=60") as socket:
            await socket.send(json.dumps({"type": "generate", "id": "a", "text_input": "Hi"}))
            for _ in range(2):
                await socket.recv()
        assert await cancelled_after_s(server, 1) < LIMIT_S


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
