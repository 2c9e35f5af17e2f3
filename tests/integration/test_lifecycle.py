"""Cancelling, hanging up, running out of time, and losing the engine."""

from __future__ import annotations

import asyncio
import signal
import time

import aiohttp
import psutil
import pytest
import tritonclient.grpc.aio as grpcclient
from inference import gauge, http_stream, responses, stream

LONG = {"text_input": "ROMEO:\n", "max_tokens": 900, "ignore_eos": True, "stream": True}
SHORT = {"text_input": "JULIET:\n", "max_tokens": 4, "temperature": 0.0}
MODELS = pytest.mark.parametrize("model", ["generate", "text_generation"])


@pytest.fixture(scope="module")
def server(start_server):
    return start_server()


@pytest.fixture
async def client(server):
    async with grpcclient.InferenceServerClient(server.grpc_url) as client:
        yield client


async def wait_for_blocks(server, is_expected, timeout_s=10):
    end_s = time.monotonic() + timeout_s
    while not is_expected(used := gauge(server.metrics_url, "tritonlm_kv_blocks_used")):
        assert time.monotonic() < end_s, f"{used} blocks are used"
        await asyncio.sleep(0.05)


async def start(client, model, **options):
    """Begin a long stream; returns what is left of it after the first response."""
    answers = responses(client, model, LONG, **options)
    _, error = await anext(answers)
    assert error is None
    return answers


@MODELS
async def test_cancel_by_id_ends_the_stream_and_frees_its_blocks(server, client, model):
    answers = await start(client, model, request_id="the-one")
    await wait_for_blocks(server, lambda used: used > 0)
    reply = await stream(client, model, {"cancel": True, "request_id": "the-one"})
    assert (reply.error, reply.finish_reason) == ("", "cancelled")
    last = [result async for result, _ in answers][-1]
    assert last.as_numpy("finish_reason").item() == b"cancelled"
    await wait_for_blocks(server, lambda used: used == 0)


@MODELS
async def test_cancelling_what_does_not_run_is_not_found(client, model):
    reply = await stream(client, model, {"cancel": True, "request_id": "nobody"})
    assert "NOT_FOUND" in reply.error
    assert "nobody" in reply.error


async def test_hanging_up_on_grpc_frees_the_blocks(server):
    client = grpcclient.InferenceServerClient(server.grpc_url)
    await start(client, "generate")
    await wait_for_blocks(server, lambda used: used > 0)
    await client.close()
    await wait_for_blocks(server, lambda used: used == 0)


async def test_hanging_up_on_http_frees_the_blocks(server):
    async with aiohttp.ClientSession() as session:
        url = f"{server.http_url}/v2/models/generate/generate_stream"
        answer = await session.post(url, json=LONG)
        await answer.content.readline()
        await wait_for_blocks(server, lambda used: used > 0)
        answer.close()
        await wait_for_blocks(server, lambda used: used == 0)


@MODELS
async def test_a_deadline_ends_the_stream_with_what_there_is(server, client, model):
    got = await stream(client, model, LONG | {"timeout_ms": 300})
    assert (got.error, got.finish_reason) == ("", "deadline")
    assert 0 < got.num_output_tokens < 900
    await wait_for_blocks(server, lambda used: used == 0)


async def test_losing_the_engine_ends_the_streams_and_the_next_request_works(server, client):
    before = await stream(client, "generate", SHORT)
    answers = [await start(client, model) for model in ("generate", "text_generation") * 3]
    async with aiohttp.ClientSession() as session:
        http = asyncio.create_task(http_stream(session, server.http_url, "generate", LONG))
        await asyncio.sleep(0.2)
        kill_engine(server)
        for answer in answers:
            error = [error async for _, error in answer][-1]
            assert "the engine was lost" in str(error)
        assert "the engine was lost" in (await http).error
    after = await stream(client, "generate", SHORT)
    assert (after.error, after.token_ids) == ("", before.token_ids)
    through_ensemble = await stream(client, "text_generation", SHORT)
    assert through_ensemble.token_ids == before.token_ids
    await wait_for_blocks(server, lambda used: used == 0)


def engines(server):
    return [process for process in psutil.Process(server.pid).children(recursive=True)
            if "tritonlm.engine.worker" in process.cmdline()]


def kill_engine(server):
    [engine] = engines(server)
    engine.send_signal(signal.SIGKILL)


async def test_there_is_one_engine_whatever_the_number_of_front_ends(server):
    assert len(engines(server)) == 1
