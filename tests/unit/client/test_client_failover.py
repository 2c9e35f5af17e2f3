"""Several servers: who is asked, what if one fails, and circuit breakers."""

import asyncio
import time
from collections import Counter
from contextlib import ExitStack

import pytest
from page_server import serve_page
from tests.drills.waiting import found, until
from triton_service import chunk, failure, serve

from tritonlm.errors import InvalidArgument, NotFound, Unavailable
from tritonlm_client import AsyncClient, Client, Retry
from tritonlm_client.address import Address
from tritonlm_client.balancing.health import MAX_FAILURES
from tritonlm_client.balancing.load import Load
from tritonlm_client.servers import Servers

ONCE = Retry(num_tries=1)


def says(text):
    return lambda *_: iter([chunk(text, finish_reason="stop", is_final=True)])


def refuses(message):
    return lambda *_: iter([failure(message)])


class Sync:
    def texts(self, urls, number=1, **settings):
        with Client(urls, **settings) as client:
            return [client.generate("Hi").text for _ in range(number)]


class Async:
    def texts(self, urls, number=1, **settings):
        async def ask():
            async with AsyncClient(urls, **settings) as client:
                return [(await client.generate("Hi")).text for _ in range(number)]
        return asyncio.run(ask())


@pytest.fixture(params=[Sync, Async])
def api(request):
    return request.param()


@pytest.fixture
def servers():
    """Start servers with these scripts."""
    with ExitStack() as stack:
        yield lambda *scripts: [stack.enter_context(serve(script)) for script in scripts]


@pytest.mark.parametrize("policy", ["normal", "urgent", "batch"])
def test_all_servers_are_asked(api, servers, policy):
    urls = [server.url for server in servers(says("a"), says("b"))]
    heard = Counter(api.texts(urls, 40, policy=policy))
    assert set(heard) == {"a", "b"} or policy == "urgent"


@pytest.mark.parametrize("message", [
    "UNAVAILABLE: the queue is full; retry in 60 s", "NOT_FOUND: no such model"])
def test_what_one_server_refuses_another_does_at_once(api, servers, message):
    urls = [server.url for server in servers(refuses(message), says("b"))]
    assert api.texts(urls, 20, retry=ONCE) == ["b"] * 20


def test_a_server_that_is_not_there_is_done_without(api, servers):
    [server] = servers(says("b"))
    assert api.texts(f"localhost:9,{server.url}", 20, retry=ONCE) == ["b"] * 20


def test_a_server_that_fails_is_soon_left_alone(api, servers):
    bad, good = servers(refuses("UNAVAILABLE: no"), says("b"))
    began_s = time.monotonic()
    api.texts([bad.url, good.url], 60, retry=ONCE)
    assert len(bad.requests) <= MAX_FAILURES + num_trials(began_s)


def num_trials(began_s):
    """How often a server that goes on failing may have been tried again: once a second at most."""
    return int(time.monotonic() - began_s)


def test_an_open_circuit_costs_the_server_nothing_and_says_when_to_come_again(api, servers):
    [bad] = servers(refuses("UNAVAILABLE: no"))
    with Client(bad.url, retry=ONCE) as client:
        for _ in range(MAX_FAILURES):
            with pytest.raises(Unavailable, match=r"no$"):
                client.generate("Hi")
        with pytest.raises(Unavailable, match=f"{bad.url}: generate has failed") as caught:
            client.generate("Hi")
    assert caught.value.retry_after_s == 1
    assert len(bad.requests) == MAX_FAILURES


def test_a_retry_waits_until_the_circuit_is_tried_again(servers):
    [bad] = servers(refuses("UNAVAILABLE: no"))
    with Client(bad.url, retry=Retry(num_tries=MAX_FAILURES + 1, first_wait_s=0.01)) as client:
        with pytest.raises(Unavailable):
            client.generate("Hi")
        bad.script = says("well again")
        assert client.generate("Hi").text == "well again"


def test_a_circuit_is_that_of_one_model(servers):
    def script(request, context):
        answer = "UNAVAILABLE: it is loading" if request.model_name == "generate" else ""
        return refuses(answer)() if answer else says("small")()

    [server] = servers(script)
    began_s = time.monotonic()
    with Client(server.url, retry=ONCE, fallback_model="small") as client:
        assert [client.generate("Hi").text for _ in range(10)] == ["small"] * 10
        asked = Counter(request.model_name for request in server.requests)
        assert asked["small"] == 10
        assert MAX_FAILURES <= asked["generate"] <= MAX_FAILURES + num_trials(began_s)


def test_streams_that_have_not_begun_move_and_others_end(servers):
    """One server answers a first chunk and no more, then dies; what it has not begun goes on."""
    def begins_one(request, context):
        if len(mortal.requests) == 1:
            yield chunk("begun")
        while context.is_active():
            time.sleep(0.01)

    [mortal] = servers(begins_one)
    with Client([mortal.url], retry=ONCE) as alone:
        begun = iter(alone.stream("Hi"))
        next(begun)
        [heir] = servers(says("heir"))
        with Client([mortal.url, heir.url], retry=ONCE) as client:
            streams = [client.stream("Hi") for _ in range(12)]
            found(lambda: len(mortal.requests) + len(heir.requests), lambda number: number >= 13)
            num_moved = len(mortal.requests) - 1
            mortal.stop()
            texts = ["".join(piece.text for piece in stream) for stream in streams]
        assert num_moved > 0
        assert texts == ["heir"] * 12
        with pytest.raises(Unavailable):
            list(begun)


def test_a_request_goes_to_servers_one_after_the_other_and_open_circuits_are_left_out():
    now_s = [0.0]
    servers = Servers([Address.parse(f"{name}:1") for name in "abc"], lambda address: None,
                      "batch", lambda: now_s[0])
    assert sorted(server.name for server in servers.round("m")) == ["a:1", "b:1", "c:1"]
    first = servers.of("m")[0]
    for _ in range(MAX_FAILURES):
        first.failed()
    assert sorted(server.name for server in servers.round("m")) == ["b:1", "c:1"]
    assert len(list(servers.round("other"))) == 3
    now_s[0] = 1.0
    assert first in list(servers.round("m"))
    assert first not in list(servers.round("m")), "the one on trial has more than one request"
    first.begun(0.1)
    assert first in list(servers.round("m"))


def test_the_load_of_servers_decides():
    busy, idle = (Address.parse(f"{name}:1") for name in ("busy", "idle"))
    servers = Servers([busy, idle], lambda address: None, "batch")
    servers.of("m")
    servers.set_load(busy, Load(num_running=9))
    servers.set_load(idle, Load(num_running=1))
    assert [next(servers.round(model)).name for model in "mmmn"] == ["idle:1"] * 4


def test_loads_come_from_the_servers_own_metrics(servers):
    with serve_page('tritonlm_requests_running{engine="0"} 200\n') as busy_page, \
            serve_page('tritonlm_requests_running{engine="0"} 1\n') as idle_page:
        busy, idle = servers(says("busy"), says("idle"))
        addresses = [f"{busy.url}:{busy_page.server_port}", f"{idle.url}:{idle_page.server_port}"]
        with Client(addresses, policy="batch") as client:
            found(lambda: {client.generate("Hi").text for _ in range(8)}, {"idle"}.issuperset)


@pytest.mark.parametrize("method", ["generate", "embed"])
async def test_the_async_client_reads_metrics_from_its_first_request_on(method):
    with serve_page("") as page:
        async with AsyncClient(f"localhost:9:{page.server_port}", retry=ONCE) as client:
            with pytest.raises(Unavailable):
                await getattr(client, method)(["a text"] if method == "embed" else "a text")
            await until(lambda: page.paths, "nobody has read the metrics")


def test_a_long_prompt_goes_where_it_was_before():
    servers = Servers([Address.parse(f"{name}:1") for name in "abc"], lambda address: None, "batch")
    for number in range(8):
        prefix = b"%d" % number * 64
        assert len({next(servers.round("m", prefix)).name for _ in range(8)}) == 1


@pytest.mark.parametrize(("servers", "field"), [
    ("", "servers"), ([], "servers"), ("localhost", "servers"), ("localhost:x", "servers"),
    ("ftp://localhost:1", "servers"), ("localhost:70000", "servers"), (":1", "servers"),
])
def test_an_address_that_is_none_is_refused(servers, field):
    with pytest.raises(InvalidArgument) as caught:
        Client(servers)
    assert caught.value.field == field


@pytest.mark.parametrize("make", [Client, AsyncClient])
@pytest.mark.parametrize("settings", [{"policy": "best"}, {"connections": 0}])
def test_a_setting_that_is_none_is_refused(make, settings):
    with pytest.raises(InvalidArgument) as caught:
        make(**settings)
    assert caught.value.field == next(iter(settings))


@pytest.mark.parametrize(("text", "address"), [
    ("host:8001", Address("grpc", "host:8001")), ("grpcs://host:1", Address("grpcs", "host:1")),
    ("http://host:8000/", Address("http", "host:8000")),
    ("[::1]:8001:8002", Address("grpc", "[::1]:8001", "http://[::1]:8002/metrics")),
])
def test_addresses_are_read(text, address):
    assert Address.parse(text) == address


def test_a_request_is_cancelled_wherever_it_runs(servers):
    answers = [refuses("NOT_FOUND: none"), says("")]
    urls = [server.url for server in servers(*answers)]
    with Client(urls) as client:
        assert client.cancel("mine")
    with Client(urls[0]) as client:
        assert not client.cancel("mine")
    with Client([urls[0], "localhost:9"]) as client, pytest.raises(Unavailable):
        client.cancel("mine")


def test_several_connections_share_the_requests(servers):
    [server] = servers(says("a"))
    with Client(server.url, connections=3) as client:
        assert [client.generate("Hi").text for _ in range(6)] == ["a"] * 6


def test_no_model_at_any_server_is_not_found(api, servers):
    urls = [server.url for server in servers(*[refuses("NOT_FOUND: no such model")] * 2)]
    with pytest.raises(NotFound):
        api.texts(urls)
