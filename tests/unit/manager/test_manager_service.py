"""Those who talk to the manager: clients, commands, and some who do not speak its language."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest
from managed_models import managed
from triton_service import chunk, failure, serve
from typer.testing import CliRunner

from tritonlm.cli import app
from tritonlm.errors import Unavailable
from tritonlm.manager import keep_alive
from tritonlm.manager.client import ManagerClient
from tritonlm.manager.control import reason_of

TCP_REPAIR = 19
"""Linux's number of the option, which Python has no name for."""


async def test_who_vanishes_without_a_word_uses_nothing_any_more(monkeypatch):
    monkeypatch.setattr(keep_alive, "IDLE_S", 1)
    async with managed() as (client, _, _, port):
        another = ManagerClient("localhost", port)
        await another.lease("a")
        connection = another._writer.get_extra_info("socket")
        try:
            connection.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)  # it closes in silence
        except PermissionError:
            pytest.skip("needs the capability to administer networks")
        another._writer.transport.abort()
        assert (await client.status()).models[0].num_leases == 1
        while (await client.status()).models[0].num_leases:
            await asyncio.sleep(0.05)


async def test_what_is_no_call_is_answered_with_an_error():
    async with managed() as (_, _, _, port):
        reader, writer = await asyncio.open_connection("localhost", port)
        writer.write(b'{"id": 1, "verb": "explode"}\n')
        assert b"INVALID_ARG" in await reader.readline()
        assert await reader.read() == b""
        writer.close()


async def test_a_client_without_a_manager_says_so():
    async with ManagerClient("localhost", 1) as client:
        with pytest.raises(Unavailable, match="no model manager answers at localhost:1"):
            await client.lease("a")


async def test_the_commands_show_and_change_what_is_loaded():
    async with managed() as (_, _, _, port):
        async def run(*arguments):
            command = ["models", *arguments, "--manager", f"localhost:{port}"]
            result = await asyncio.to_thread(CliRunner().invoke, app, command)
            return result.exit_code, result.output

        for verb in ("load", "pin", "reload", "unpin"):
            assert await run(verb, "a") == (0, f"{verb} a: done\n")
        code, shown = await run("--json")
        [model, *_] = json.loads(shown)["models"]
        assert (code, model["name"], model["state"], model["num_loads"]) == (0, "a", "ready", 1)
        code, shown = await run()
        assert code == 0
        assert "any number of" in shown
        assert await run("unload", "a") == (0, "unload a: done\n")
        code, told = await run("unload", "x")
        assert code == 1
        assert "the model 'x' does not exist; there are: a, b, c" in told


async def test_health_asks_for_a_token_of_what_is_pinned_whatever_else_is_being_loaded():
    def answer(request, context):
        yield chunk("a", (1,), 0, "length", is_final=True)

    def run(url, port):
        result = CliRunner().invoke(app, ["health", "--json", "--url", url, "--manager",
                                          f"localhost:{port}"])
        return result.exit_code, result.stdout and json.loads(result.stdout)

    async with managed() as (client, _, _, port):
        await client.do("load", "a")
        with serve(answer) as triton:  # which has no model that is ready
            code, told = await asyncio.to_thread(run, triton.url, port)
            assert (code, told["replies"]) == (0, {})
            await client.do("pin", "b")
            code, told = await asyncio.to_thread(run, triton.url, port)
            assert (code, told["is_healthy"], [*told["replies"]]) == (0, True, ["b"])
            assert [request.model_name for request in triton.requests] == ["b"]
            triton.script = lambda *_: iter([failure("Stub process 'b_0' is not healthy.")])
            code, told = await asyncio.to_thread(run, triton.url, port)
            assert (code, told["is_healthy"]) == (1, False)
            assert "not healthy" in told["replies"]["b"]["error"]
            assert await asyncio.to_thread(run, triton.url, 9) == (1, "")
        code, told = await asyncio.to_thread(run, triton.url, port)
        assert (code, told["is_live"]) == (1, False)


def test_the_reason_of_a_failed_load_is_one_line():
    text = ("{\"error\":\"load failed for model 'a': version 1 is at UNAVAILABLE state: Internal: "
            "TritonModelException: max_model_len: 9 is not allowed; no\\n\\nAt:\\n  x(3)\\n;\\n\"}")
    assert reason_of(text) == "max_model_len: 9 is not allowed; no"
    assert reason_of('{"error":"model: \'/größe/模型\' is not\\nallowed"}') == (
        "model: '/größe/模型' is not allowed")
    assert reason_of('{"error":"failed to load \'x\', failed to poll"}') == (
        "failed to load 'x', failed to poll")
