"""WebSockets before a real server: many requests on one, and many of them."""

from __future__ import annotations

import asyncio

import pytest
from sockets import connected, hear, hear_all, say
from tests.integration.gateway import direct_text

LONG = {"text_input": "ROMEO:", "max_tokens": 900, "ignore_eos": True, "temperature": 1.0}
GREEDY = {"temperature": 0, "max_tokens": 12}


@pytest.fixture(scope="module")
def texts(demo_server):
    """The greedy answers to some prompts."""
    return {prompt: direct_text(demo_server, prompt, **GREEDY)
            for prompt in ("ROMEO:", "JULIET:", "KING:", "First Citizen:")}


async def test_many_requests_share_a_socket(demo_gateway, texts):
    async with connected(demo_gateway) as socket:
        for prompt in texts:
            await say(socket, type="generate", id=prompt, text_input=prompt, **GREEDY)
        assert await hear_all(socket, len(texts)) == texts


async def test_numbers_count_up_and_done_tells_the_tokens(demo_gateway):
    async with connected(demo_gateway) as socket:
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


async def test_a_cancelled_request_says_so_and_leaves_the_others_alone(demo_gateway, texts):
    async with connected(demo_gateway) as socket:
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
async def test_an_error_is_that_of_its_request_and_the_socket_goes_on(demo_gateway, message, param):
    async with connected(demo_gateway) as socket:
        await say(socket, **message)
        answer = await hear(socket)
        assert (answer["type"], answer["id"]) == ("error", message.get("id"))
        assert answer["error"]["param"] == param
        await say(socket, type="ping", id="still there")
        assert await hear(socket) == {"type": "pong", "id": "still there"}


async def test_what_is_no_json_is_an_error_of_nobody(demo_gateway):
    async with connected(demo_gateway) as socket:
        for text in ("{", "[]", "7"):
            await socket.send(text)
            answer = await hear(socket)
            assert (answer["type"], answer["id"]) == ("error", None)


async def test_an_id_in_use_is_refused(demo_gateway):
    async with connected(demo_gateway) as socket:
        for _ in range(2):
            await say(socket, type="generate", id="a", **LONG)
        while (message := await hear(socket))["type"] == "chunk":
            pass
        assert "is running" in message["error"]["message"]


async def test_five_hundred_sockets_complete(demo_gateway, texts):
    prompts = list(texts)

    async def one(place):
        prompt = prompts[place % len(prompts)]
        async with connected(demo_gateway) as socket:
            await say(socket, type="generate", id="a", text_input=prompt, **GREEDY)
            return (await hear_all(socket, 1))["a"] == texts[prompt]

    assert all(await asyncio.gather(*(one(place) for place in range(500))))
