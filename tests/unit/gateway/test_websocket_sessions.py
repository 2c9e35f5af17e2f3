"""Sessions of WebSockets: how many may wait for their clients, and what a bug costs."""

from __future__ import annotations

import json

import aiohttp
import pytest
import websockets
from prometheus_client import REGISTRY
from tests.drills.waiting import until
from tests.fakes.triton_service import chunk
from tests.unit.gateway.test_gateway_hang_ups import hang

from tritonlm.gateway import websocket


def gauge(name):
    return REGISTRY.get_sample_value(f"tritonlm_gateway_{name}")


async def lost_session(url):
    """Its token; a request of it goes on."""
    socket = await websockets.connect(f"ws{url.removeprefix('http')}/ws?window_s=60")
    token = json.loads(await socket.recv())["session"]
    await socket.send(json.dumps({"type": "generate", "id": "a", "text_input": "Hi"}))
    await socket.recv()
    socket.transport.abort()
    await until(lambda: gauge("sockets") == 0, "it is still connected")
    return token


async def resumed(url, token):
    """What is said first."""
    async with aiohttp.ClientSession() as http, http.ws_connect(
            f"{url}/ws?session={token}") as socket:
        return (await socket.receive_json())["type"]


async def test_of_too_many_sessions_that_wait_the_first_ends(gateway, monkeypatch):
    monkeypatch.setattr(websocket, "MAX_WAITING", 2)
    async with gateway(hang) as (url, server):
        first, *others = [await lost_session(url) for _ in range(3)]
        await until(lambda: server.cancelled == [server.requests[0].id], "it goes on")
        assert await resumed(url, first) == "error"
        assert [await resumed(url, token) for token in others] == ["session"] * 2


async def test_a_bug_in_a_request_on_a_socket_is_its_own(gateway, monkeypatch):
    async def answer(request, send):
        send(chunk("a", finish_reason="stop", is_final=True))

    async with gateway(answer) as (url, _), aiohttp.ClientSession() as http, http.ws_connect(
            f"{url}/ws") as socket:
        await socket.receive_json()
        num_in_flight = gauge("requests_in_flight")
        with monkeypatch.context() as broken:
            broken.setattr(websocket, "streamed_request", lambda *_: 1 / 0)
            await socket.send_json({"type": "generate", "id": "a", "text_input": "Hi"})
            told = await socket.receive_json()
        assert (told["id"], told["error"]["message"]) == ("a", "the gateway failed")
        assert gauge("requests_in_flight") == num_in_flight
        await socket.send_json({"type": "generate", "id": "b", "text_input": "Hi"})
        assert (await socket.receive_json())["text_output"] == "a"


@pytest.mark.parametrize("request_id", ["x" * 257, 7, ["a"], None])
async def test_an_id_is_a_short_text(gateway, request_id):
    async with gateway(hang) as (url, server), aiohttp.ClientSession() as http, http.ws_connect(
            f"{url}/ws") as socket:
        await socket.receive_json()
        await socket.send_json({"type": "generate", "id": request_id, "text_input": "Hi"})
        told = await socket.receive_json()
    assert (told["type"], told["id"], told["error"]["param"]) == ("error", None, "id")
    assert server.requests == []
