"""Several servers behind one gateway: who gets a request, and what if that one fails."""

import asyncio
import json
import time
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
from page_server import serve_page
from tests.drills.waiting import LIMIT_S
from tests.fakes.many_requests_triton import serve
from tests.fakes.triton_service import chunk, failure
from tests.unit.gateway.conftest import running

from tritonlm.gateway import managed_connection
from tritonlm.gateway.settings import GatewaySettings

LONG_PROMPT = "It was the best of times, it was the worst of times, " * 4


def says(name):
    async def script(request, send):
        send(chunk(name, finish_reason="stop", is_final=True))
    return script


async def refuse(request, send):
    send(failure("UNAVAILABLE: 4096 requests are unfinished here; retry later"))


async def hang(request, send):
    send(chunk("begun"))
    await asyncio.sleep(60)


@asynccontextmanager
async def fleet(tmp_path, *scripts, pages=()):
    """The gateway's URL, and the servers."""
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(serve(script)) for script in scripts]
        ports = [stack.enter_context(page).server_port for page in pages]
        addresses = [f"{server.url}:{port}" for server, port in zip(servers, ports, strict=True)
                     ] if pages else [server.url for server in servers]
        settings = GatewaySettings(servers=",".join(addresses), access_log=False)
        yield await stack.enter_async_context(running(settings, tmp_path)), servers


async def ask(url, prompt="Hi", **options):
    """Status and text of a completion."""
    async with aiohttp.ClientSession() as session, session.post(
            f"{url}/v1/completions", json={"model": "generate", "prompt": prompt, **options},
    ) as response:
        told = await response.json()
        return response.status, told["choices"][0]["text"] if "choices" in told else told


async def until_all_answer(url, names):
    due_s = time.monotonic() + LIMIT_S
    heard = set()
    while heard != names:
        assert time.monotonic() < due_s, heard
        heard.add((await ask(url))[1])
        await asyncio.sleep(0.01)


async def test_all_servers_get_requests(tmp_path):
    async with fleet(tmp_path, says("a"), says("b")) as (url, _):
        assert {(await ask(url))[1] for _ in range(30)} == {"a", "b"}


async def test_what_one_server_refuses_another_does(tmp_path):
    async with fleet(tmp_path, refuse, says("b")) as (url, _):
        assert [await ask(url) for _ in range(20)] == [(200, "b")] * 20


async def test_a_server_that_fails_again_and_again_is_left_alone(tmp_path):
    async with fleet(tmp_path, refuse, says("b")) as (url, servers):
        for _ in range(60):
            await ask(url)
        assert 3 <= len(servers[0].requests) <= 6  # a trial after 1 s, after 2 more, and so on
        servers[0].script = says("a")
        await until_all_answer(url, {"a", "b"})


async def test_what_all_refuse_is_unavailable(tmp_path):
    async with fleet(tmp_path, refuse, refuse) as (url, servers):
        status, told = await ask(url)
        assert (status, told["error"]["code"]) == (503, "unavailable")
        assert sum(len(server.requests) for server in servers) == 2


async def test_a_bad_request_is_tried_once(tmp_path):
    async def invalid(request, send):
        send(failure("INVALID_ARG: max_tokens: 9 is not allowed"))

    async with fleet(tmp_path, invalid, invalid) as (url, servers):
        assert (await ask(url))[0] == 400
        assert sum(len(server.requests) for server in servers) == 1


async def test_requests_of_a_lost_server_go_elsewhere_until_it_is_back(tmp_path):
    async with fleet(tmp_path, says("a"), says("b")) as (url, servers):
        await servers[0].stop()
        assert [await ask(url) for _ in range(20)] == [(200, "b")] * 20
        async with serve(says("a"), servers[0].url):
            await until_all_answer(url, {"a", "b"})


async def test_an_answer_that_has_begun_is_not_begun_again(tmp_path):
    async with fleet(tmp_path, hang, hang) as (url, servers):
        async with aiohttp.ClientSession() as session, session.post(
                f"{url}/v1/completions", json={"model": "generate", "prompt": "Hi",
                                               "stream": True}) as response:
            await response.content.readline()
            for server in servers:
                await server.stop()
            lines = (await response.read()).decode().split("\n")
        last = json.loads(next(line for line in reversed(lines) if line).removeprefix("data: "))
        assert last["error"]["code"] == "unavailable"
        assert sum(len(server.requests) for server in servers) == 1


async def test_no_server_at_all_is_unavailable_and_not_ready(tmp_path):
    settings = GatewaySettings(servers="localhost:1")
    async with running(settings, tmp_path) as url, aiohttp.ClientSession() as session:
        async with session.post(f"{url}/v1/completions",
                                json={"model": "generate", "prompt": "Hi"}) as response:
            assert response.status == 503
            assert response.headers["retry-after"] == "1"
        async with session.get(f"{url}/health/ready") as response:
            assert response.status == 503
        async with session.get(f"{url}/health/live") as response:
            assert response.status == 200


async def test_a_full_server_says_when_to_come_again(tmp_path):
    async def full(request, send):
        send(failure("UNAVAILABLE: the queue is full; retry in 7 s"))

    async with fleet(tmp_path, full) as (url, _), aiohttp.ClientSession() as session, session.post(
            f"{url}/v1/completions", json={"model": "generate", "prompt": "Hi"}) as response:
        assert (response.status, response.headers["retry-after"]) == (503, "7")


async def test_loads_come_from_the_servers_own_metrics(tmp_path):
    busy = 'tritonlm_requests_running{engine="0"} 200\ntritonlm_requests_waiting{engine="0"} 50\n'
    idle = 'tritonlm_requests_running{engine="0"} 1\n'
    pages = (serve_page(busy), serve_page(idle))
    async with fleet(tmp_path, says("busy"), says("idle"), pages=pages) as (url, _):
        for priority in ("low", "urgent"):
            assert {(await ask(url, priority=priority))[1] for _ in range(10)} == {"idle"}
        assert [(await ask(url))[1] for _ in range(40)].count("idle") > 24


async def test_a_server_whose_metrics_cannot_be_read_is_not_called_idle(tmp_path):
    few, many = (f'tritonlm_requests_running{{engine="0"}} {number}\n' for number in (1, 9))
    pages = (serve_page(few, status=503), serve_page(few), serve_page(many))
    async with fleet(tmp_path, says("unknown"), says("few"), says("many"), pages=pages) as (url, _):
        assert {(await ask(url, priority="low"))[1] for _ in range(10)} == {"few"}


async def test_prompts_with_the_same_long_beginning_go_to_one_server(tmp_path):
    async with fleet(tmp_path, says("a"), says("b"), says("c")) as (url, _):
        places = set()
        for number in range(12):
            prompt = f"{number} {LONG_PROMPT * 3}"
            texts = {(await ask(url, prompt + end))[1] for end in ("x", "y", "z")}
            assert len(texts) == 1
            places |= texts
        assert len(places) > 1


async def test_a_manager_that_hangs_holds_up_no_other_server(tmp_path, monkeypatch):
    monkeypatch.setattr(managed_connection, "STATUS_TIMEOUT_S", 0.1)

    async def say_nothing(reader, writer):
        await reader.read()
        writer.close()

    manager = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = manager.sockets[0].getsockname()[1]
    async with manager, serve(says("a")) as hanging, serve(says("b")) as well:
        settings = GatewaySettings(servers=f"{hanging.url}:{port}:{port},{well.url}",
                                   access_log=False)

        async def started_and_asked():
            async with running(settings, tmp_path) as url:
                return await ask(url)

        assert await asyncio.wait_for(started_and_asked(), LIMIT_S / 2) == (200, "b")
