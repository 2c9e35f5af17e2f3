"""What the gateway answers from its cache, and what it does not."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest
from tests.drills.waiting import until
from tests.fakes.many_requests_triton import serve
from tests.fakes.triton_service import chunk, failure, tensors

from tritonlm.caching.flights import Flights
from tritonlm.gateway.cache_key import generation_key
from tritonlm.gateway.connection import TritonConnection
from tritonlm.gateway.settings import GatewaySettings, ServerAddress
from tritonlm_client.requests import text_request

ASKED = {"model": "generate", "prompt": "ROMEO:", "temperature": 0}
CHAT = {"model": "generate", "messages": [{"role": "user", "content": "Hi"}], "seed": 1}


async def answer(request, send):
    """Two tokens, or all at once."""
    text = tensors(request).get("text_input", [[b"chat"]])[0][0].decode()
    if "stream" in tensors(request):
        send(chunk(text))
    send(chunk(f"{text} on", finish_reason="length", num_output_tokens=(2,), is_final=True))


class Held:
    """A script that waits before it answers, and may be told to fail."""

    def __init__(self):
        self.may_answer = asyncio.Event()
        self.error = ""

    async def __call__(self, request, send):
        await self.may_answer.wait()
        if self.error:
            error, self.error = self.error, ""
            send(failure(error))
        else:
            await answer(request, send)


async def post(url, body, path="completions", headers=None):
    """State of the cache, and the answer."""
    async with aiohttp.ClientSession() as session, session.post(
            f"{url}/v1/{path}", json=body, headers=headers) as got:
        text = await got.text()
        if body.get("stream"):
            return got.headers.get("x-tritonlm-cache"), text
        told = json.loads(text)
        return got.headers.get("x-tritonlm-cache"), told.get("choices", told)


async def test_an_equal_request_is_answered_from_the_cache(gateway):
    async with gateway(answer, cache_mib=1) as (url, server):
        first = await post(url, ASKED)
        second = await post(url, {"temperature": "0", **ASKED, "priority": "high", "user": "b"})
        assert (first[0], second[0]) == ("miss", "hit")
        assert first[1] == second[1]
        assert len(server.requests) == 1


@pytest.mark.parametrize(("path", "body"), [("completions", ASKED), ("chat/completions", CHAT)])
async def test_a_stream_is_replayed(gateway, path, body):
    body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    async with gateway(answer, cache_mib=1) as (url, server):
        texts = []
        for expected in ("miss", "hit"):
            state, text = await post(url, body, path)
            assert state == expected
            events = [json.loads(line[6:]) for line in text.split("\n\n") if "{" in line]
            choices = [choice for event in events for choice in event["choices"]]
            texts.append("".join(choice.get("text", "") or choice.get("delta", {}).get("content")
                                 for choice in choices))
            assert choices[-1]["finish_reason"] == "length"
            assert events[-1]["usage"]["completion_tokens"] == 2
            assert text.endswith("data: [DONE]\n\n")
        assert texts[0] == texts[1] != ""
        assert len(server.requests) == 1


@pytest.mark.parametrize(("change", "headers"), [
    ({"cache": False}, {}), ({"temperature": 1}, {}),
    ({}, {"cache-control": "no-cache"}), ({}, {"Cache-Control": "no-store"}),
])
async def test_what_is_random_or_not_to_be_cached_is_computed(gateway, change, headers):
    async with gateway(answer, cache_mib=1) as (url, server):
        for _ in range(2):
            assert (await post(url, ASKED | change, headers=headers))[0] == "bypass"
        assert len(server.requests) == 2


async def test_a_gateway_without_a_cache_says_nothing_of_it(gateway):
    async with gateway(answer) as (url, server):
        for _ in range(2):
            assert (await post(url, ASKED))[0] is None
        assert len(server.requests) == 2


async def test_what_is_not_a_wish_is_refused(gateway):
    async with gateway(answer, cache_mib=1) as (url, _):
        _, told = await post(url, ASKED | {"cache": "no"})
        assert told["error"]["param"] == "cache"


@pytest.fixture
def joined(monkeypatch):
    """Who has joined a flight, and left one."""
    seen = {"join": 0, "leave": 0}

    def count(name, known):
        def counting(*args):
            seen[name] += 1
            return known(*args)
        monkeypatch.setattr(Flights, name, counting)

    count("join", Flights.join)
    count("leave", Flights.leave)
    return seen


async def test_equal_requests_at_once_are_computed_once(gateway, joined):
    script = Held()
    async with gateway(script, cache_mib=1) as (url, server):
        tasks = [asyncio.create_task(post(url, ASKED)) for _ in range(8)]
        await until(lambda: joined["join"] == 8, joined)
        script.may_answer.set()
        states = [state for state, _ in await asyncio.gather(*tasks)]
        assert sorted(states) == ["miss"] + ["shared"] * 7
        assert len(server.requests) == 1


@pytest.mark.parametrize("other", [{"timeout_ms": 5}, {"priority": "urgent"}])
async def test_who_has_less_time_or_is_more_urgent_shares_no_work(gateway, joined, other):
    script = Held()
    async with gateway(script, cache_mib=1) as (url, server):
        tasks = [asyncio.create_task(post(url, body)) for body in (ASKED, ASKED | other)]
        await until(lambda: joined["join"] == 2, joined)
        await until(lambda: len(server.requests) == 2, server.requests)
        script.may_answer.set()
        assert [state for state, _ in await asyncio.gather(*tasks)] == ["miss", "miss"]
        assert (await post(url, ASKED))[0] == "hit"


async def test_the_work_goes_on_for_those_who_stay(gateway, joined):
    script = Held()
    async with gateway(script, cache_mib=1) as (url, server):
        first = asyncio.create_task(post(url, ASKED))
        await until(lambda: server.requests, "no request")
        second = asyncio.create_task(post(url, ASKED))
        await until(lambda: joined["join"] == 2, joined)
        first.cancel()
        await until(lambda: joined["leave"] == 1, joined)
        script.may_answer.set()
        assert (await second)[1][0]["text"] == "ROMEO: on"
        assert len(server.requests) == 1
        assert server.cancelled == []


async def test_when_all_have_left_the_server_is_told(gateway):
    script = Held()
    async with gateway(script, cache_mib=1) as (url, server):
        task = asyncio.create_task(post(url, ASKED))
        await until(lambda: server.requests, "no request")
        task.cancel()
        await until(lambda: server.cancelled, "not cancelled")
        script.may_answer.set()
        assert (await post(url, ASKED))[0] == "miss"


async def test_a_failure_is_told_to_one_and_kept_for_nobody(gateway, joined):
    script = Held()
    script.error = "INTERNAL: the engine failed"
    async with gateway(script, cache_mib=1) as (url, server):
        tasks = [asyncio.create_task(post(url, ASKED)) for _ in range(3)]
        await until(lambda: joined["join"] == 3, joined)
        script.may_answer.set()
        told = [told for _, told in await asyncio.gather(*tasks)]
        assert [isinstance(one, dict) for one in told].count(True) == 1
        assert len(server.requests) == 2


async def test_what_was_cut_short_is_not_kept(gateway):
    async def cut(request, send):
        send(chunk("Ro", finish_reason="deadline", is_final=True))

    async with gateway(cut, cache_mib=1) as (url, server):
        for _ in range(2):
            assert (await post(url, ASKED | {"timeout_ms": 5}))[0] == "miss"
        assert len(server.requests) == 2


async def test_a_redis_that_is_not_there_fails_no_request(gateway):
    async with gateway(answer, cache_redis="redis://127.0.0.1:1") as (url, server):
        for _ in range(2):
            state, choices = await post(url, ASKED)
            assert (state, choices[0]["text"]) == ("miss", "ROMEO: on")
        assert len(server.requests) == 2


async def test_a_folder_outlives_its_gateway(gateway, tmp_path):
    settings = {"cache_disk": tmp_path / "kept", "cache_mib": 1}
    async with gateway(answer, **settings) as (url, _):
        assert (await post(url, ASKED))[0] == "miss"
    async with gateway(answer, **settings) as (url, server):
        assert (await post(url, ASKED))[0] == "hit"
        assert server.requests == []


def key(identity=("generate:1",), prompt="ROMEO:", is_stream=False, **options):
    request = text_request("generate", prompt, options, is_stream).as_protobuf()
    return generation_key([request], identity)


def test_a_key_is_that_of_model_version_prompt_and_all_options():
    same = key(temperature=0, max_tokens=5, stop=["a", "b"])
    assert key(stop=["a", "b"], max_tokens="5", temperature=0.0, request_id="x") == same
    assert key(stop_words=["a", "b"], max_tokens=5, temperature=0, timeout_ms=9) == same
    others = [key(temperature=0, max_tokens=5, stop=["b", "a"]), key(temperature=0, max_tokens=5),
              key(temperature=0, max_tokens=6, stop=["a", "b"]),
              key(("generate:2",), temperature=0, max_tokens=5, stop=["a", "b"]),
              key(prompt="JULIET:", temperature=0, max_tokens=5, stop=["a", "b"]),
              key(is_stream=True, temperature=0, max_tokens=5, stop=["a", "b"])]
    assert len({same, *others}) == 7


async def test_a_model_that_is_loaded_again_with_other_settings_is_another():
    async with serve(answer) as server:
        connection = TritonConnection(ServerAddress.parse(server.url), GatewaySettings())
        identities = []
        for settings in ({"model": "a"}, {"model": "a", "run_dir": "/b"}, {"model": "b"}):
            server.settings = settings  # the version stays ready throughout
            await connection.models()
            identities.append(connection.identities("generate"))
        await connection.close()
    assert identities[0] == identities[1] != identities[2]


def test_only_what_is_greedy_or_has_a_seed_has_a_key():
    assert None not in {key(temperature=0), key(seed=5), key(seed=5, temperature=2)}
    assert key() is None
    assert key(temperature=0.1) is None


def test_a_wrong_setting_is_named():
    with pytest.raises(Exception, match="cache_ttl_s: 0"):
        GatewaySettings(cache_ttl_s=0)
