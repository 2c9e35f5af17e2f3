"""Server-sent events and WebSocket against a real server; who goes away is not worked for."""

from __future__ import annotations

import asyncio
import http.client
import json
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import aiohttp
import psutil
import pytest
import websockets
from tests.drills.load import counted
from tests.drills.processes import has_ended
from tests.drills.waiting import LIMIT_S, until
from tests.integration.gateway import address_of, post, running_gateway
from tests.metrics import settled, total

from tritonlm.gateway.keys import hashed
from tritonlm_client import Client

LONG = {"text_input": "ROMEO:", "max_tokens": 900, "ignore_eos": True, "temperature": 1.0}
GREEDY = {"temperature": 0, "max_tokens": 12}


@pytest.fixture(scope="module")
def url(demo_server):
    with running_gateway(address_of(demo_server)) as url:
        yield url


@pytest.fixture(scope="module")
def texts(demo_server):
    """The greedy answers to some prompts, by our other way in."""
    with Client(demo_server.grpc_url) as client:
        return {prompt: client.generate(prompt, **GREEDY).text
                for prompt in ("ROMEO:", "JULIET:", "KING:", "First Citizen:")}


def open_socket(url, query):
    """It waits for 500 at once, and does not give up a server that is busy."""
    return websockets.connect(f"ws{url.removeprefix('http')}/ws{query}", open_timeout=LIMIT_S,
                              ping_interval=None)


@asynccontextmanager
async def connected(url, query=""):
    async with open_socket(url, query) as socket:
        hello = await hear(socket)
        assert hello["type"] == "session"
        socket.token = hello["session"]
        yield socket


async def say(socket, **message):
    await socket.send(json.dumps(message))


async def hear(socket):
    return json.loads(await asyncio.wait_for(socket.recv(), LIMIT_S))


async def hear_all(socket, num_requests, heard=None):
    """Texts by id, once every request is done."""
    texts: dict[str, str] = heard or {}
    while num_requests:
        message = await hear(socket)
        assert message["type"] in {"chunk", "done"}, message
        if message["type"] == "done":
            num_requests -= 1
        else:
            texts[message["id"]] = texts.get(message["id"], "") + message["text_output"]
    return texts


async def test_events_add_up_to_the_answer(url, texts):
    async with aiohttp.ClientSession() as session, session.post(
            f"{url}/generate_stream", json={"text_input": "ROMEO:", **GREEDY}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [json.loads(line[6:]) async for line in answer.content if line.strip()]
    assert "".join(event["text_output"] for event in events) == texts["ROMEO:"]
    assert [event["finish_reason"] for event in events][:-1] == [""] * (len(events) - 1)
    assert events[-1]["finish_reason"] == "length"
    assert events[-1]["num_output_tokens"] == 12


def test_events_that_cannot_begin_are_an_error_with_a_status(url):
    status, answer = post(f"{url}/generate_stream", {"text_input": "a", "max_tokens": 10**6})
    assert (status, answer["error"]["param"]) == (400, "max_tokens")
    assert post(f"{url}/generate_stream", {"input_ids": [1], "text_input": "a"})[0] == 400
    assert post(f"{url}/generate_stream", {"input_ids": [1], "stream": True})[0] == 400


async def test_many_requests_share_a_socket(url, texts):
    async with connected(url) as socket:
        for prompt in texts:
            await say(socket, type="generate", id=prompt, text_input=prompt, **GREEDY)
        assert await hear_all(socket, len(texts)) == texts


async def test_numbers_count_up_and_done_tells_the_tokens(url):
    async with connected(url) as socket:
        await say(socket, type="generate", id="a", input_ids=[5, 6], max_tokens=3, n=2,
                  ignore_eos=True, logprobs=1)
        heard = [await hear(socket)]
        while heard[-1]["type"] != "done":
            heard.append(await hear(socket))
    assert [message["seq"] for message in heard] == list(range(1, len(heard) + 1))
    assert {message["sequence_index"] for message in heard[:-1]} == {0, 1}
    assert sum(len(message["logprobs"]["content"]) for message in heard[:-1]) == 6
    assert heard[-1]["usage"] == {
        "prompt_tokens": 2, "completion_tokens": 6, "total_tokens": 8}


async def test_a_cancelled_request_says_so_and_leaves_the_others_alone(url, texts):
    async with connected(url) as socket:
        await say(socket, type="generate", id="long", **LONG)
        assert (await hear(socket))["type"] == "chunk"
        await say(socket, type="cancel", id="long")
        await say(socket, type="generate", id="short", text_input="ROMEO:", **GREEDY)
        told, reasons = {}, {}
        while len(told) < 2:
            message = await hear(socket)
            if message["type"] == "done":
                told[message["id"]] = message["usage"]["completion_tokens"]
            elif message["finish_reason"]:
                reasons[message["id"]] = message["finish_reason"]
    assert reasons == {"long": "cancelled", "short": "length"}
    assert told["long"] < 900


@pytest.mark.parametrize(("message", "param"), [
    ({"type": "generate", "id": "a", "text_input": "x", "max_tokens": 0}, "max_tokens"),
    ({"type": "generate", "id": "a", "text_input": "x", "max_tokens": 10**6}, "max_tokens"),
    ({"type": "generate", "id": "a", "text_input": "x", "nonsense": 1}, "nonsense"),
    ({"type": "generate", "id": "a"}, "prompt"), ({"type": "generate", "text_input": "x"}, "id"),
    ({"type": "sing", "id": "a"}, "type"), ({"id": "a"}, "type"),
    ({"type": "cancel", "id": "nobody"}, None),
    ({"type": "generate", "id": "a", "text_input": "x", "model": "none"}, None),
])
async def test_an_error_is_that_of_its_request_and_the_socket_goes_on(url, message, param):
    async with connected(url) as socket:
        await say(socket, **message)
        answer = await hear(socket)
        assert (answer["type"], answer["id"]) == ("error", message.get("id"))
        assert answer["error"]["param"] == param
        await say(socket, type="ping", id="still there")
        assert await hear(socket) == {"type": "pong", "id": "still there"}


async def test_what_is_no_json_is_an_error_of_nobody(url):
    async with connected(url) as socket:
        for text in ("{", "[]", "7"):
            await socket.send(text)
            answer = await hear(socket)
            assert (answer["type"], answer["id"]) == ("error", None)


async def test_an_id_in_use_is_refused(url):
    async with connected(url) as socket:
        for _ in range(2):
            await say(socket, type="generate", id="a", **LONG)
        while (message := await hear(socket))["type"] == "chunk":
            pass
        assert "is running" in message["error"]["message"]


async def test_a_lost_connection_is_gone_on_with(url, demo_server):
    call = {"text_input": "ROMEO:", "max_tokens": 60, "temperature": 0, "ignore_eos": True}
    with Client(demo_server.grpc_url) as client:
        expected = client.generate(call["text_input"], max_tokens=60, temperature=0,
                                   ignore_eos=True).text
    heard = []
    async with connected(url, "?window_s=30") as socket:
        await say(socket, type="generate", id="a", **call)
        heard += [await hear(socket) for _ in range(3)]
        socket.transport.abort()
    await asyncio.sleep(0.3)
    resumed = f"?session={socket.token}&after={heard[-1]['seq']}"
    async with connected(url, resumed) as again:
        assert again.token == socket.token
        while heard[-1]["type"] != "done":
            heard.append(await hear(again))
    assert [message["seq"] for message in heard] == list(range(1, len(heard) + 1))
    assert "".join(message["text_output"] for message in heard[:-1]) == expected


async def test_messages_that_were_lost_on_the_way_come_again(url, texts):
    async with connected(url, "?window_s=30") as socket:
        await say(socket, type="generate", id="a", text_input="ROMEO:", **GREEDY)
        await hear_all(socket, 1)
        socket.transport.abort()
    async with connected(url, f"?session={socket.token}") as again:
        assert await hear_all(again, 1) == {"a": texts["ROMEO:"]}


@pytest.mark.parametrize("query", ["?session=none", "?window_s=1000000", "?window_s=x"])
async def test_a_session_that_is_not_there_is_refused(url, query):
    async with open_socket(url, query) as socket:
        assert (await hear(socket))["type"] == "error"
        with pytest.raises(websockets.ConnectionClosed):
            await hear(socket)
        assert socket.close_code == 4400


async def test_a_newer_connection_replaces_the_older(url):
    async with connected(url, "?window_s=30") as old:
        await say(old, type="generate", id="a", **LONG)
        await hear(old)
        async with connected(url, f"?session={old.token}&after=1") as new:
            with suppress(websockets.ConnectionClosed):
                async for _ in old:  # what was on its way
                    pass
            assert old.close_code == 4409
            assert (await hear(new))["seq"] == 2


@pytest.fixture(scope="module")
def workers_url(demo_server, tmp_path_factory):
    """A gateway of two workers that lets in alice and bob."""
    keys_file = tmp_path_factory.mktemp("keys") / "keys.json"
    keys_file.write_text(json.dumps({"keys": [{"name": name, "sha256": hashed(name)}
                                              for name in ("alice", "bob")]}))
    with running_gateway(address_of(demo_server), "--workers", "2", "--keys-file",
                         str(keys_file)) as url:
        yield url


async def test_whichever_worker_accepts_it_a_session_goes_on(workers_url, demo_server):
    """Of twelve connections some come to the worker that has the session, and some do not."""
    call = {"text_input": "ROMEO:", "max_tokens": 60, "temperature": 0, "ignore_eos": True}
    with Client(demo_server.grpc_url) as client:
        expected = client.generate(call["text_input"], max_tokens=60, temperature=0,
                                   ignore_eos=True).text
    async with connected(workers_url, "?window_s=30&api_key=alice") as socket:
        await say(socket, type="generate", id="a", **call)
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


async def test_five_hundred_sockets_complete(url, texts):
    prompts = list(texts)

    async def one(place):
        prompt = prompts[place % len(prompts)]
        async with connected(url) as socket:
            await say(socket, type="generate", id="a", text_input=prompt, **GREEDY)
            return (await hear_all(socket, 1))["a"] == texts[prompt]

    assert all(await asyncio.gather(*(one(place) for place in range(500))))


async def leave_http(url, path, body, is_running):
    """Send a request, hear its beginning if it streams, and hang up."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=LIMIT_S)
    connection.request("POST", path, json.dumps(body))
    if body.get("stream") or path == "/generate_stream":
        connection.getresponse().read(64)
    else:
        await until(is_running, "it does not run")
    connection.sock.close()


CHAT = {"model": "generate", "max_tokens": 900, "ignore_eos": True,
        "messages": [{"role": "user", "content": "Speak."}]}


@pytest.mark.parametrize(("path", "body"), [
    ("/v1/chat/completions", {**CHAT, "stream": True}), ("/v1/chat/completions", CHAT),
    ("/v1/completions", {"model": "generate", "prompt": ["A", "B"], "max_tokens": 900,
                         "ignore_eos": True, "stream": True}),
    ("/generate_stream", LONG),
])
async def test_who_hangs_up_is_not_worked_for(url, demo_server, path, body):
    page = demo_server.metrics_url
    await until(lambda: not total(page, "tritonlm_requests_running"), "others run")
    before = await settled(lambda: counted(page)["cancelled"])
    await leave_http(url, path, body, lambda: total(page, "tritonlm_requests_running"))
    await until(lambda: counted(page)["cancelled"] == before + len(body.get("prompt", [1])),
                lambda: f"{counted(page)['cancelled']} since {before}")
