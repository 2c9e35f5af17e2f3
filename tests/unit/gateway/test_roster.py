"""Servers behind one name in the DNS: they join, and leave without losing what they have begun."""

import asyncio
import socket
from contextlib import AsyncExitStack

import aiohttp
import grpc
import pytest
from tests.drills.waiting import LIMIT_S, until
from tests.fakes.many_requests_triton import serve
from tests.unit.gateway.conftest import running
from tests.unit.gateway.test_fleet import ask, says
from tests.unit.gateway.test_tls import certificate  # noqa: F401

from tritonlm.gateway import fleet
from tritonlm.gateway.settings import GatewaySettings, ServerAddress

NAME = "triton.example"


@pytest.fixture
def dns(monkeypatch):
    """The addresses that `NAME` has: a list to change; empty, the name is not found."""
    addresses = []
    real = socket.getaddrinfo

    def getaddrinfo(host, port, *args, **kwargs):
        if host != NAME:
            return real(host, port, *args, **kwargs)
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
                for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(fleet, "LOOK_INTERVAL_S", 0.02)
    return addresses


async def servers_at(stack, *scripts):
    """Servers at 127.0.0.1, .2, ..., which have one port, and the port."""
    first = await stack.enter_async_context(serve(scripts[0], "127.0.0.1:0"))
    port = int(first.url.rpartition(":")[2])
    return [first, *[await stack.enter_async_context(serve(script, f"127.0.0.{number}:{port}"))
                     for number, script in enumerate(scripts[1:], 2)]], port


async def answers(url, wanted):
    """Ask until just the `wanted` texts come, twenty times in a row."""
    due_s = asyncio.get_running_loop().time() + LIMIT_S
    while (said := {str((await ask(url))[1]) for _ in range(20)}) != wanted:
        assert asyncio.get_running_loop().time() < due_s, said


async def test_servers_that_join_and_leave_a_name_are_followed(dns, tmp_path):
    async with AsyncExitStack() as stack:
        _, port = await servers_at(stack, says("a"), says("b"))
        dns[:] = ["127.0.0.1"]
        settings = GatewaySettings(servers=f"dns:{NAME}:{port}")
        url = await stack.enter_async_context(running(settings, tmp_path))
        await answers(url, {"a"})
        dns[:] = ["127.0.0.1", "127.0.0.2"]
        await answers(url, {"a", "b"})
        dns[:] = ["127.0.0.2"]
        await answers(url, {"b"})
        dns.clear()  # the name server is down, or nobody is left: who answers is still there
        await answers(url, {"b"})


async def test_what_a_server_has_begun_goes_on_when_it_leaves(dns, tmp_path):
    may_end = asyncio.Event()

    async def slow(request, send):
        if len(leaving.requests) > 1:
            return await says("a")(request, send)
        await may_end.wait()
        return await says("begun")(request, send)

    async with AsyncExitStack() as stack:
        [leaving, _], port = await servers_at(stack, slow, says("b"))
        dns[:] = ["127.0.0.1"]
        settings = GatewaySettings(servers=f"dns:{NAME}:{port}")
        url = await stack.enter_async_context(running(settings, tmp_path))
        begun = asyncio.create_task(ask(url))
        await until(lambda: leaving.requests, "no request")
        dns[:] = ["127.0.0.2"]
        await answers(url, {"b"})
        may_end.set()
        assert await begun == (200, "begun")
        await is_forgotten(url, f"127.0.0.1:{port}")


async def is_forgotten(url, server):
    """Wait until the gateway's metrics do not say any more whether `server` is up."""
    async with aiohttp.ClientSession() as session:
        due_s = asyncio.get_running_loop().time() + LIMIT_S
        while f'tritonlm_gateway_server_up{{server="{server}"' in (
                page := await (await session.get(f"{url}/metrics")).text()):
            assert asyncio.get_running_loop().time() < due_s, page
            await asyncio.sleep(0.02)


async def test_a_gateway_starts_before_its_servers_have_a_name(dns, tmp_path):
    async with AsyncExitStack() as stack:
        _, port = await servers_at(stack, says("a"))
        settings = GatewaySettings(servers=f"dns:{NAME}:{port}")
        url = await stack.enter_async_context(running(settings, tmp_path))
        assert (await ask(url))[0] == 503
        dns[:] = ["127.0.0.1"]
        await answers(url, {"a"})


async def test_certificates_are_for_the_name_and_not_for_an_address(
    dns, certificate, tmp_path, monkeypatch  # noqa: F811
):
    cert, key = certificate
    monkeypatch.setattr(ServerAddress, "at", lambda name, address: ServerAddress(
        address, name.grpc_port, looked_up_as="localhost"))  # the name in the certificate
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), cert.read_bytes())])
    async with serve(says("a"), "127.0.0.1:0", credentials) as server:
        dns[:] = ["127.0.0.1"]
        settings = GatewaySettings(servers=f"dns:{NAME}:{server.url.rpartition(':')[2]}",
                                   tls=True, tls_ca=cert)
        async with running(settings, tmp_path) as url:
            await answers(url, {"a"})


@pytest.mark.parametrize(("text", "at", "grpc_url", "metrics_url", "manager_port"), [
    ("dns:triton:8001:8002", "10.0.0.7", "10.0.0.7:8001", "http://10.0.0.7:8002/metrics", None),
    ("dns:triton:1:2:8003", "10.0.0.7", "10.0.0.7:1", "http://10.0.0.7:2/metrics", 8003),
    ("dns:triton:8001", "fd00::7", "[fd00::7]:8001", None, None),
])
def test_an_address_behind_a_name(text, at, grpc_url, metrics_url, manager_port):
    address = ServerAddress.parse(text)
    assert address.is_looked_up
    found = address.at(at)
    assert (found.grpc_url, found.metrics_url, found.manager_port) == (
        grpc_url, metrics_url, manager_port)
    assert (found.is_looked_up, found.looked_up_as) == (False, "triton")
