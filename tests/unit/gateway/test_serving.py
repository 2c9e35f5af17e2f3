"""The gateway's processes: several workers, a clean end, and running requests that may finish."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import psutil
import pytest
import websockets
from tests.drills.processes import has_ended
from tests.drills.waiting import LIMIT_S, until
from tests.fakes.many_requests_triton import serve
from tests.fakes.triton_service import chunk
from tests.metrics import samples
from typer.testing import CliRunner

from tritonlm.cli import app
from tritonlm.errors import InvalidArgument
from tritonlm.gateway.keys import KeyRing
from tritonlm.gateway.serving import prepare
from tritonlm.gateway.settings import GatewaySettings, ServerAddress

COMMAND = str(Path(sys.executable).parent / "tritonlm")
BODY = {"model": "generate", "prompt": "Hi", "stream": True}


async def slow(request, send):
    for place in range(10):
        await asyncio.sleep(0.05)
        send(chunk("x", finish_reason="stop" if place == 9 else "", is_final=place == 9))


@asynccontextmanager
async def started(*options):
    process = psutil.Popen([COMMAND, "gateway", "--port", "0", *options], stdout=subprocess.PIPE)
    try:
        line = await asyncio.to_thread(process.stdout.readline)
        url = line.decode().removeprefix("gateway:").strip()
        assert url, "it has ended"
        async with (aiohttp.ClientSession() as session,
                    session.get(f"{url}/health/ready") as response):  # once there is a worker
            assert response.status == 200
        yield process, url
    finally:
        for each in [*children_of(process), process]:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait(LIMIT_S)
        process.stdout.close()


def children_of(process):
    """Its workers and whom they need; `children()` may leave some out."""
    return [each for each in psutil.process_iter(["ppid"]) if each.info["ppid"] == process.pid]


async def ended(*processes):
    await until(lambda: all(map(has_ended, processes)), "it runs on")


async def test_running_requests_finish_and_new_ones_are_not_taken():
    async with serve(slow) as server, started("--servers", server.url) as (process, url):
        async with aiohttp.ClientSession() as session, session.post(
                f"{url}/v1/completions", json=BODY) as response:
            await response.content.readline()
            process.send_signal(signal.SIGTERM)
            text = (await response.read()).decode()
        assert text.rstrip().endswith("[DONE]")
        await ended(process)
        with pytest.raises(aiohttp.ClientError):
            async with aiohttp.ClientSession() as session:
                await session.get(f"{url}/health/live")


async def endless(request, send):
    if any(tensor.name == "stream" for tensor in request.inputs):
        send(chunk("x"))
    await asyncio.sleep(LIMIT_S)


@asynccontextmanager
async def stream_and_whole(server, url):
    """The head of a stream that has begun, and the task of an answer that has not."""
    async with aiohttp.ClientSession() as session:
        whole = asyncio.create_task(session.post(f"{url}/v1/completions",
                                                 json={**BODY, "stream": False}))
        async with session.post(f"{url}/v1/completions", json=BODY) as stream:
            await stream.content.readline()
            await until(lambda: len(server.requests) == 2, "no requests")
            yield stream, whole


def has_stopped_listening(url):
    address = urlsplit(url)
    try:
        socket.create_connection((address.hostname, address.port)).close()
    except OSError:
        return True
    return False


async def assert_told_to_come_again(stream, whole):
    last = (await stream.read()).decode().rstrip().rpartition("data: ")[2]
    async with await whole as response:
        assert response.status == 503
        assert response.headers["retry-after"] == "1"
        told = await response.json()
    assert json.loads(last) == told
    assert "stopping" in told["error"]["message"]


async def test_what_takes_too_long_is_told_so_beside_a_websocket_too(capfd):
    async with serve(endless) as server, started(
            "--servers", server.url, "--drain-timeout-s", "1") as (process, url):
        async with (stream_and_whole(server, url) as answers,
                    websockets.connect(f"ws{url.removeprefix('http')}/ws") as connection):
            await connection.send(json.dumps({"type": "generate", "id": "a", "text_input": "Hi"}))
            await until(lambda: len(server.requests) == 3, "no requests")
            process.send_signal(signal.SIGTERM)
            await assert_told_to_come_again(*answers)
            await connection.wait_closed()
            assert connection.close_code == 1012
        await ended(process)
    assert "Traceback" not in capfd.readouterr().err


async def test_a_second_signal_ends_the_wait():
    async with serve(endless) as server, started("--servers", server.url) as (process, url):
        async with stream_and_whole(server, url) as answers:
            process.send_signal(signal.SIGTERM)
            await until(lambda: has_stopped_listening(url), "it goes on")
            process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(assert_told_to_come_again(*answers), 10)  # not --drain-timeout-s
        await ended(process)


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_what_runs_on_a_websocket_finishes_too(workers):
    async with serve(slow) as server, started(
            "--servers", server.url, "--workers", workers) as (process, url):
        address = f"ws{url.removeprefix('http')}/ws"
        async with websockets.connect(address) as socket:
            await socket.send(json.dumps({"type": "generate", "id": "a", "text_input": "Hi"}))
            heard = [json.loads(await socket.recv()) for _ in range(2)]
            process.send_signal(signal.SIGTERM)
            with suppress(websockets.ConnectionClosed):
                async for text in socket:
                    heard.append(json.loads(text))
        assert heard[-1]["type"] == "done"
        assert "".join(message.get("text_output", "") for message in heard) == "x" * 10
        assert socket.close_code == 1012
        await ended(process)


async def test_workers_share_the_port_and_count_together():
    async with serve(slow) as server, started(
            "--servers", server.url, "--workers", "2") as (process, url):
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as http:
            async def one():
                async with http.post(f"{url}/v1/completions", json=BODY) as response:
                    return (await response.read()).decode()

            texts = await asyncio.gather(*(one() for _ in range(20)))
            assert all(text.rstrip().endswith("[DONE]") for text in texts)
        wanted = {"path": "/v1/completions", "status": "200"}
        name = "tritonlm_gateway_requests_total"
        await until(lambda: (wanted, 20) in samples(f"{url}/metrics", name),
                    lambda: samples(f"{url}/metrics", name))
        children = children_of(process)
        assert len(children) >= 2
        process.send_signal(signal.SIGINT)
        await ended(process, *children)


async def test_an_idle_connection_outlasts_those_who_use_it():
    """OpenAI's SDK keeps one for 5 s, and proxies for a minute: who closes first loses nothing."""
    async with serve(slow) as server, started("--servers", server.url) as (_, url):
        address = urlsplit(url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(b"HEAD /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(reader.read(1), 6)
        writer.close()


def test_a_client_whose_machine_is_gone_is_looked_for():
    with (prepare(GatewaySettings(port=0)) as listener,
          socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted):
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= 60


@pytest.fixture
def folders(monkeypatch, tmp_path):
    """Those that gateways have, which are started in the test, now."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return lambda: [path.name for path in tmp_path.glob("*/gateway-*")]


async def test_workers_end_with_a_killed_supervisor_and_the_last_one_cleans_up(folders):
    async with serve(slow) as server, started(
            "--servers", server.url, "--workers", "2") as (process, _):
        workers = children_of(process)
        assert len(folders()) == 1
        process.kill()
        assert len(workers) >= 2
        await ended(*workers)
        assert folders() == []


async def test_what_a_killed_gateway_leaves_is_swept_by_the_next(folders):
    async with serve(slow) as server:
        async with started("--servers", server.url) as (process, _):
            process.kill()
            await ended(process)
            [left] = folders()
        async with started("--servers", server.url) as (process, _):
            assert len(folders()) == 1
            assert left not in folders()
            process.send_signal(signal.SIGTERM)
            await ended(process)
        assert folders() == []


@pytest.mark.parametrize(("options", "environ", "message"), [
    (["--servers", "nonsense"], {}, "servers: 'nonsense' is not allowed"),
    (["--workers", "0"], {}, "workers: 0 is not allowed"),
    (["--model-names", "x"], {}, "model_names: 'x'"),
    (["--keys-file", "/none"], {}, "keys_file: /none cannot be used"),
    (["--tls-cert", "/none"], {}, "tls_cert: "),
    (["--tls-ca", "/none"], {}, "tls_ca: "),
    (["--server-header", "x"], {}, "server_header: "),
    ([], {"TRITONLM_GATEWAY_NONSENSE": "1"}, "TRITONLM_GATEWAY_NONSENSE: '1' is not allowed"),
    ([], {"TRITONLM_GATEWAY_PORT": "70000"}, "port: 70000 is not allowed"),
])
def test_bad_settings_are_refused_by_name(options, environ, message):
    result = CliRunner().invoke(app, ["gateway", *options], env=os.environ | environ)
    assert result.exit_code == 1
    assert message in result.output


@pytest.mark.parametrize(("text", "grpc_url", "metrics_url"), [
    ("localhost:8001", "localhost:8001", None),
    ("a:1:2", "a:1", "http://a:2/metrics"), ("[::1]:1:2", "[::1]:1", "http://[::1]:2/metrics"),
])
def test_addresses_of_servers(text, grpc_url, metrics_url):
    address = ServerAddress.parse(text)
    assert (address.grpc_url, address.metrics_url) == (grpc_url, metrics_url)
    both = GatewaySettings(servers=f"{text}, b:3").addresses
    assert both == (address, ServerAddress("b", 3))


@pytest.mark.parametrize("text", ["", "a", "a:b", "a:1:2:3:4", ":1", "a:0", "a:70000"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(InvalidArgument, match="servers"):
        GatewaySettings(servers=text)


def test_a_new_key_goes_with_its_entry(tmp_path):
    key, entry = CliRunner().invoke(app, ["new-key", "alice"]).output.splitlines()
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": [json.loads(entry)]}))
    assert KeyRing.load(path).find(key.removeprefix("key: ")).name == "alice"
