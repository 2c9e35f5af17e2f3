"""A WebSocket's session outlives its connection, whichever worker gets the next."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

import psutil
import pytest
import websockets
from sockets import connected, hear, hear_all, open_socket, say
from tests.drills.processes import has_ended
from tests.drills.waiting import until
from tests.integration.gateway import address_of, direct_text, running_gateway

from tritonlm.gateway.keys import hashed

LONG = {"text_input": "ROMEO:", "max_tokens": 900, "ignore_eos": True, "temperature": 1.0}
GREEDY = {"temperature": 0, "max_tokens": 12}


async def test_a_lost_connection_is_gone_on_with(demo_gateway, demo_server):
    call = {"max_tokens": 60, "temperature": 0, "ignore_eos": True}
    expected = direct_text(demo_server, "ROMEO:", **call)
    heard = []
    async with connected(demo_gateway, "?window_s=30") as socket:
        await say(socket, type="generate", id="a", text_input="ROMEO:", **call)
        heard += [await hear(socket) for _ in range(3)]
        socket.transport.abort()
    await asyncio.sleep(0.3)
    resumed = f"?session={socket.token}&after={heard[-1]['seq']}"
    async with connected(demo_gateway, resumed) as again:
        assert again.token == socket.token
        while heard[-1]["type"] != "done":
            heard.append(await hear(again))
    assert [message["seq"] for message in heard] == list(range(1, len(heard) + 1))
    assert "".join(message["text_output"] for message in heard[:-1]) == expected


async def test_messages_that_were_lost_on_the_way_come_again(demo_gateway, demo_server):
    async with connected(demo_gateway, "?window_s=30") as socket:
        await say(socket, type="generate", id="a", text_input="ROMEO:", **GREEDY)
        await hear_all(socket, 1)
        socket.transport.abort()
    async with connected(demo_gateway, f"?session={socket.token}") as again:
        assert await hear_all(again, 1) == {
            "a": direct_text(demo_server, "ROMEO:", **GREEDY)}


@pytest.mark.parametrize("query", ["?session=none", "?window_s=1000000", "?window_s=x"])
async def test_a_session_that_is_not_there_is_refused(demo_gateway, query):
    async with open_socket(demo_gateway, query) as socket:
        assert (await hear(socket))["type"] == "error"
        with pytest.raises(websockets.ConnectionClosed):
            await hear(socket)
        assert socket.close_code == 4400


async def test_a_newer_connection_replaces_the_older(demo_gateway):
    async with connected(demo_gateway, "?window_s=30") as old:
        await say(old, type="generate", id="a", **LONG)
        await hear(old)
        async with connected(demo_gateway, f"?session={old.token}&after=1") as new:
            with suppress(websockets.ConnectionClosed):
                async for _ in old:  # what was on its way
                    pass
            assert old.close_code == 4409
            assert (await hear(new))["seq"] == 2


@pytest.fixture(scope="module")
def workers_url(demo_server, tmp_path_factory):
    """A gateway of two workers that lets in alice and bob."""
    keys_file = tmp_path_factory.mktemp("keys") / "keys.json"
    names = {"alice": "Älïçe Ω", "bob": "bob"}
    keys_file.write_text(json.dumps({"keys": [{"name": name, "sha256": hashed(key)}
                                              for key, name in names.items()]}))
    with running_gateway(address_of(demo_server), "--workers", "2", "--keys-file",
                         str(keys_file)) as url:
        yield url


async def test_whichever_worker_accepts_it_a_session_goes_on(workers_url, demo_server):
    """Of twelve connections some come to the worker that has the session, and some do not."""
    call = {"max_tokens": 60, "temperature": 0, "ignore_eos": True}
    expected = direct_text(demo_server, "ROMEO:", **call)
    async with connected(workers_url, "?window_s=30&api_key=alice") as socket:
        await say(socket, type="generate", id="a", text_input="ROMEO:", **call)
        heard = [await hear(socket)]
        socket.transport.abort()
    for place in range(12):
        query = f"?session={socket.token}&after={heard[-1]['seq']}"
        async with connected(workers_url, f"{query}&api_key=alice") as again:
            assert again.token == socket.token
            await say(again, type="ping", id=place)
            while (message := await hear(again))["type"] != "pong":
                heard.append(message)
            again.transport.abort()
    async with connected(workers_url, f"{query}&api_key=alice") as last:
        await last.close()
    assert [message["seq"] for message in heard] == list(range(1, len(heard) + 1))
    text = "".join(message["text_output"] for message in heard if message["type"] == "chunk")
    assert text
    assert expected.startswith(text)


async def refused(url, query):
    """Whether a session is not gone on with."""
    async with open_socket(url, query) as socket:
        told = await hear(socket)
        with suppress(websockets.ConnectionClosed):
            while told["type"] != "error":
                told = await hear(socket)
        return told["type"] == "error" and "it is over" in told["error"]["message"]


async def test_no_worker_gives_a_session_to_somebody_elses_key(workers_url):
    async with connected(workers_url, "?window_s=30&api_key=alice") as socket:
        socket.transport.abort()
    for _ in range(8):
        assert await refused(workers_url, f"?session={socket.token}&api_key=bob")
    async with connected(workers_url, f"?session={socket.token}&api_key=alice") as again:
        await again.close()
    for _ in range(8):
        assert await refused(workers_url, f"?session={socket.token}&api_key=alice")


async def test_a_session_ends_with_its_worker(workers_url):
    async with connected(workers_url, "?window_s=30&api_key=alice") as socket:
        worker = psutil.Process(int(socket.token.partition(".")[0]))
        worker.kill()
        await until(lambda: has_ended(worker), "it runs on")
    for _ in range(8):
        assert await refused(workers_url, f"?session={socket.token}&api_key=alice")
