"""Keys, limits, ids, log and metrics of every request."""

import asyncio
import json
import logging
import time

import aiohttp
import pytest
import websockets
from tests.drills.waiting import LIMIT_S, until
from tests.fakes.triton_service import chunk, tensors

from tritonlm.gateway.keys import hashed

CHAT = {"model": "generate", "messages": [{"role": "user", "content": "Hi"}]}
PATH = "/v1/chat/completions"


async def answer(request, send):
    send(chunk("a", finish_reason="stop", num_output_tokens=(3,), is_final=True))


@pytest.fixture
def keys_file(tmp_path):
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": [
        {"name": "alice", "sha256": hashed("A"), "priority": "high"},
        {"name": "bob", "sha256": hashed("B"), "max_concurrent": 1},
        {"name": "carol", "sha256": hashed("C"), "requests_per_minute": 2}]}))
    return path


async def call(url, key=None, body=CHAT, path=PATH, **headers):
    given = {"authorization": f"Bearer {key}"} if key else {}
    async with aiohttp.ClientSession() as session, session.post(
            url + path, json=body, headers=given | headers) as response:
        return response.status, await response.json(), response.headers


async def test_a_key_is_needed_but_for_health(gateway, keys_file):
    async with gateway(answer, keys_file=keys_file) as (url, server):
        for key in (None, "X"):
            status, told, _ = await call(url, key)
            assert (status, told["error"]["code"]) == (401, "invalid_api_key")
        assert server.requests == []
        assert (await call(url, "A"))[0] == 200
        async with aiohttp.ClientSession() as session:
            for path in ("/health/live", "/health/ready", "/metrics"):
                async with session.get(url + path) as response:
                    assert response.status == 200
            async with session.get(url + "/v1/models") as response:
                assert response.status == 401


async def test_priority_and_user_of_a_key_reach_the_server(gateway, keys_file):
    async with gateway(answer, keys_file=keys_file) as (url, server):
        await call(url, "A", {**CHAT, "user": "u"})
        given = tensors(server.requests[0])
        assert (given["priority"], given["user"]) == ([[b"high"]], [[b"alice/u"]])
        status, told, _ = await call(url, "B", {**CHAT, "priority": "urgent"})
        assert (status, told["error"]["param"]) == (400, "priority")


async def test_a_rate_is_kept_and_says_when_to_come_again(gateway, keys_file):
    async with gateway(answer, keys_file=keys_file) as (url, _):
        assert [(await call(url, "C"))[0] for _ in range(3)] == [200, 200, 429]
        _, told, headers = await call(url, "C")
        assert told["error"]["code"] == "rate_limit_exceeded"
        assert 1 <= int(headers["retry-after"]) <= 30


async def test_what_runs_at_once_is_bounded(gateway, keys_file):
    may_end = asyncio.Event()

    async def wait(request, send):
        await may_end.wait()
        await answer(request, send)

    async with gateway(wait, keys_file=keys_file) as (url, server):
        first = asyncio.create_task(call(url, "B"))
        await until(lambda: server.requests, "no request")
        assert (await call(url, "B"))[0] == 429
        may_end.set()
        assert (await first)[0] == 200
        assert (await call(url, "B"))[0] == 200


async def test_a_websocket_has_the_limits_of_its_key(gateway, keys_file):
    async def hang(request, send):
        await asyncio.sleep(60)

    async with gateway(hang, keys_file=keys_file) as (url, _):
        base = f"ws{url.removeprefix('http')}/ws"
        with pytest.raises(websockets.InvalidStatus) as refusal:
            await websockets.connect(base)
        assert refusal.value.response.status_code == 401
        async with websockets.connect(f"{base}?api_key=B") as socket:
            for name in "ab":
                await socket.send(json.dumps({"type": "generate", "id": name, "text_input": "x"}))
            await socket.recv()
            told = json.loads(await socket.recv())
            assert (told["id"], told["error"]["code"]) == ("b", "rate_limit_exceeded")


async def test_a_session_is_its_owners_alone(gateway, keys_file):
    async with gateway(answer, keys_file=keys_file) as (url, _):
        base = f"ws{url.removeprefix('http')}/ws"
        async with websockets.connect(f"{base}?api_key=B&window_s=9") as socket:
            token = json.loads(await socket.recv())["session"]
            async with websockets.connect(f"{base}?api_key=A&session={token}") as thief:
                assert json.loads(await thief.recv())["type"] == "error"


async def test_a_body_that_is_too_large_is_refused(gateway):
    async with gateway(answer, max_body_bytes=1000) as (url, server):
        big = {**CHAT, "user": "x" * 1000}
        status, told, _ = await call(url, body=big)
        assert (status, told["error"]["code"]) == (413, "body_too_large")
        assert (await call(url))[0] == 200
        assert len(server.requests) == 1


async def test_a_body_that_will_be_too_large_is_refused_before_it_is_sent(gateway):
    async with gateway(answer, max_body_bytes=1000) as (url, _):
        reader, writer = await asyncio.open_connection(*url.removeprefix("http://").split(":"))
        writer.write(f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: 1001\r\n"
                     "expect: 100-continue\r\n\r\n".encode())
        assert (await asyncio.wait_for(reader.readline(), LIMIT_S)).split()[1] == b"413"
        writer.close()


async def test_every_answer_has_a_request_id(gateway):
    async with gateway(answer) as (url, _):
        assert (await call(url, **{"x-request-id": "mine"}))[2]["x-request-id"] == "mine"
        first, second = [(await call(url, **{"x-request-id": "a b"}))[2]["x-request-id"]
                         for _ in range(2)]
        assert first != second
        assert (await call(url, path="/nothing"))[2]["x-request-id"]


async def test_a_request_is_a_line_of_json_in_the_log(gateway):
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(json.loads(record.getMessage()))
    async with gateway(answer) as (url, _):
        logging.getLogger("tritonlm.access").addHandler(handler)
        await call(url, **{"x-request-id": "it"})
        await until(lambda: lines, "no line")
        logging.getLogger("tritonlm.access").removeHandler(handler)
    [line] = lines
    assert (line["request_id"], line["path"], line["status"]) == ("it", PATH, 200)
    assert (line["model"], line["input_tokens"], line["output_tokens"]) == ("generate", 1, 3)
    assert 0 < line["first_byte_seconds"] <= line["seconds"]


async def test_metrics_count_what_was_done(gateway):
    async with gateway(answer) as (url, _), aiohttp.ClientSession() as session:
        async def value(name):
            async with session.get(url + "/metrics") as page:
                lines = (await page.text()).splitlines()
            return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

        requests = f'tritonlm_gateway_requests_total{{path="{PATH}",status="200"}}'
        tokens = 'tritonlm_gateway_output_tokens_total{model="generate"}'
        before = await value(requests), await value(tokens)
        await call(url)
        due_s = time.monotonic() + LIMIT_S
        while (now := (await value(requests), await value(tokens))) != (before[0] + 1,
                                                                       before[1] + 3):
            assert time.monotonic() < due_s, (before, now)
        assert await value("tritonlm_gateway_requests_in_flight") == 0
        async with session.get(url + "/health/ready") as ready:
            assert ready.status == 200
        for of_watchers in ("/health/", "/metrics"):
            assert await value(f'tritonlm_gateway_requests_total{{path="{of_watchers}') == 0


async def test_pages_of_an_origin_may_call(gateway):
    async with gateway(answer, cors_origins="https://a.example") as (url, _):
        async with aiohttp.ClientSession() as session, session.options(url + PATH, headers={
                "origin": "https://a.example", "access-control-request-method": "POST",
                "access-control-request-headers": "authorization"}) as response:
            assert response.headers["access-control-allow-origin"] == "https://a.example"
        allowed = (await call(url, origin="https://b.example"))[2]
        assert "access-control-allow-origin" not in allowed


async def test_a_page_of_another_origin_opens_no_websocket(gateway):
    async with gateway(answer, cors_origins="https://a.example") as (url, _):
        address = f"ws{url.removeprefix('http')}/ws"
        for origin in (None, url, "https://a.example"):
            async with websockets.connect(address, origin=origin) as socket:
                assert json.loads(await socket.recv())["type"] == "session"
        for origin in ("https://b.example", "null"):
            with pytest.raises(websockets.InvalidStatus) as refusal:
                await websockets.connect(address, origin=origin)
            assert refusal.value.response.status_code == 403
            assert json.loads(refusal.value.response.body)["error"]["code"] == "forbidden"


async def test_a_bug_is_an_opaque_error(gateway, monkeypatch):
    def broken(*_):
        raise RuntimeError("secret")

    async with gateway(answer) as (url, _):
        monkeypatch.setattr("tritonlm.gateway.fleet.Fleet.open", broken)
        status, told, _ = await call(url)
    assert status == 500
    assert "secret" not in json.dumps(told)


@pytest.mark.parametrize("cache_mib", [0, 1])
async def test_a_bug_amid_a_stream_is_its_last_event(gateway, cache_mib):
    async def break_off(request, send):
        send(chunk("a"))
        await asyncio.sleep(0.1)
        broken = chunk("b")
        broken.infer_response.raw_output_contents[0] = b"\x01\0\0\0\xff"  # no UTF-8
        send(broken)
        await asyncio.sleep(LIMIT_S)

    body = {"model": "generate", "prompt": "Hi", "stream": True, "temperature": 0}
    async with gateway(break_off, cache_mib=cache_mib) as (url, server), (
            aiohttp.ClientSession()) as session, session.post(
            f"{url}/v1/completions", json=body) as response:
        events = (await response.text()).rstrip().split("\n\n")
        assert json.loads(events[-1].removeprefix("data: "))["error"] == {
            "message": "the gateway failed", "type": "server_error", "param": None, "code": None}
        await until(lambda: server.cancelled, "its work goes on")
