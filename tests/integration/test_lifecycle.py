"""Cancelling, hanging up, running out of time, and losing the engine."""

from __future__ import annotations

import aiohttp
import pytest
import tritonclient.grpc.aio as grpcclient
from inference import gauge, responses, stream
from tests.drills.processes import engines
from tests.drills.waiting import until

LONG = {"text_input": "ROMEO:\n", "max_tokens": 900, "ignore_eos": True, "stream": True}
SHORT = {"text_input": "JULIET:\n", "max_tokens": 4, "temperature": 0.0}
MODELS = pytest.mark.parametrize("model", ["generate", "text_generation"])


@pytest.fixture(scope="module")
def server(demo_server):
    return demo_server


@pytest.fixture
async def client(server):
    async with grpcclient.InferenceServerClient(server.grpc_url) as client:
        yield client


async def wait_for_blocks(server, is_expected):
    def used():
        return gauge(server.metrics_url, "tritonlm_kv_blocks_used")
    await until(lambda: is_expected(used()), lambda: f"{used()} blocks are used")


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
    for timeout_ms in (300, 1000, 3000):  # a busy machine may not come to a token in the first
        got = await stream(client, model, LONG | {"timeout_ms": timeout_ms})
        assert (got.error, got.finish_reason) == ("", "deadline")
        assert got.num_output_tokens < 900
        if got.num_output_tokens:
            break
    assert len(got.token_ids) == got.num_output_tokens > 0
    await wait_for_blocks(server, lambda used: used == 0)


async def test_losing_the_engine_ends_the_streams_and_the_next_request_works(server, client):
    before = await stream(client, "generate", SHORT)
    answers = [await start(client, model) for model in ("generate", "text_generation") * 3]
    url = f"{server.http_url}/v2/models/generate/generate_stream"
    async with aiohttp.ClientSession() as session, session.post(url, json=LONG) as over_http:
        assert b"data: " in await over_http.content.readline()
        [engine] = engines(server.run_dir)
        engine.kill()
        for answer in answers:
            error = [error async for _, error in answer][-1]
            assert "the engine was lost" in str(error)
        assert b"the engine was lost" in await over_http.content.read()
    after = await stream(client, "generate", SHORT)
    assert (after.error, after.token_ids) == ("", before.token_ids)
    through_ensemble = await stream(client, "text_generation", SHORT)
    assert through_ensemble.token_ids == before.token_ids
    await wait_for_blocks(server, lambda used: used == 0)


async def test_there_is_one_engine_whatever_the_number_of_front_ends(server):
    assert len(engines(server.run_dir)) == 1
