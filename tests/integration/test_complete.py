"""The model `complete`: one response a request, the engine of `generate`, and a response cache."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest
import tritonclient.grpc.aio as grpcclient
from inference import responses, stream, tensor
from tests.drills.processes import engines
from tests.metrics import samples, settled
from tritonclient.utils import InferenceServerException

from tritonlm_client import AsyncClient

GREEDY = {"text_input": "ROMEO:\n", "max_tokens": 20, "temperature": 0.0}


@pytest.fixture(scope="module")
def server(start_server):
    return start_server(response_cache_mib=1)


@pytest.fixture
async def client(server):
    async with grpcclient.InferenceServerClient(server.grpc_url) as client:
        yield client


async def complete(client, **inputs):
    """Outputs of one request by /infer over gRPC; those that are there."""
    result = await client.infer("complete", [tensor(*item) for item in inputs.items()])
    return {output.name: result.as_numpy(output.name).reshape(-1).tolist()
            for output in result.get_response().outputs}


async def test_it_says_what_generate_says(client):
    alone = await stream(client, "generate", GREEDY)
    whole = await complete(client, **GREEDY)
    assert whole["text_output"] == [alone.text.encode()]
    assert whole["output_ids"] == alone.token_ids
    assert whole["finish_reason"] == [b"length"]


async def test_it_answers_over_plain_http(server, client):
    expected = await complete(client, **GREEDY)
    async with aiohttp.ClientSession() as session:
        url = f"{server.http_url}/v2/models/complete"
        async with session.post(f"{url}/generate", json=GREEDY) as answer:
            assert (await answer.json())["output_ids"] == expected["output_ids"]
        inputs = [{"name": "text_input", "datatype": "BYTES", "shape": [1, 1],
                   "data": [GREEDY["text_input"]]},
                  {"name": "max_tokens", "datatype": "INT32", "shape": [1, 1], "data": [20]},
                  {"name": "temperature", "datatype": "FP32", "shape": [1, 1], "data": [0.0]}]
        async with session.post(f"{url}/infer", json={"inputs": inputs}) as answer:
            outputs = {output["name"]: output for output in (await answer.json())["outputs"]}
            assert outputs["output_ids"]["data"] == expected["output_ids"]


async def test_requests_share_the_steps_of_one_engine(server, client):
    assert len(engines(server.run_dir)) == 1
    answers = await asyncio.gather(*(
        complete(client, text_input=f"number {i}", max_tokens=200, ignore_eos=True)
        for i in range(16)))
    assert all(answer["num_output_tokens"] == [200] for answer in answers)
    steps = await settled(lambda: {labels["le"]: value for labels, value in samples(
        server.metrics_url, "tritonlm_step_requests_bucket")})
    assert steps["+Inf"] - steps["8"] > 10


def num_computed(server):
    """Requests that `complete` has answered itself."""
    return sum(value for labels, value in samples(server.metrics_url, "tritonlm_requests_total")
               if labels["model"] == "complete" and labels["outcome"] == "finished")


async def test_a_request_that_comes_again_is_answered_from_the_cache(server, client):
    before = await settled(lambda: num_computed(server))
    asked = {"text_input": "Good morrow", "max_tokens": 12, "seed": 5}
    first = await complete(client, **asked)
    assert await complete(client, **asked) == first
    assert await complete(client, **asked | {"seed": 6}) != first
    assert await settled(lambda: num_computed(server)) == before + 2


@pytest.mark.parametrize("url", ["grpc_url", "http_url"])
async def test_the_client_reads_what_is_kept(server, url):
    asked = {"max_tokens": 12, "temperature": 0.0}
    async with AsyncClient(getattr(server, url), "generate") as client:
        expected = await client.generate(f"Read {url}", **asked)
    async with AsyncClient(getattr(server, url), "complete") as client:
        for _ in range(2):
            got = await client.generate(f"Read {url}", **asked)
            assert (got.text, got.token_ids) == (expected.text, expected.token_ids)
            assert (got.finish_reason, got.num_output_tokens, got.logprobs) == ("length", 12, None)


async def test_what_was_cut_short_is_not_cached(server, client):
    asked = {"text_input": "Away", "max_tokens": 900, "ignore_eos": True, "timeout_ms": 150}
    before = await settled(lambda: num_computed(server))
    for _ in range(2):
        answer = await complete(client, **asked)
        assert (answer["text_output"], answer["finish_reason"]) == ([], [b"deadline"])
    assert await settled(lambda: num_computed(server)) == before + 2


async def test_generate_cancels_it(server, client):
    task = asyncio.create_task(complete(
        client, text_input="Long", max_tokens=900, ignore_eos=True, request_id="whole"))
    reply = None
    while reply is None or "NOT_FOUND" in reply.error:
        await asyncio.sleep(0.05)
        reply = await stream(client, "generate", {"cancel": True, "request_id": "whole"})
    assert reply.finish_reason == "cancelled"
    assert (await task)["finish_reason"] == [b"cancelled"]


@pytest.mark.parametrize("name", ["stream", "cancel"])
async def test_what_it_does_not_do_is_refused(client, name):
    with pytest.raises(InferenceServerException, match=f"INVALID_ARG: {name}: True"):
        await complete(client, text_input="Hi", request_id="x", **{name: True})


@pytest.mark.parametrize("model", ["generate", "text_generation"])
async def test_a_request_learns_where_its_time_went(client, model):
    asked = {"text_input": "Now is the time to speak of it. " * 10, "max_tokens": 30,
             "ignore_eos": True, "stream": True, "return_perf_metrics": True}
    for _ in range(2):
        got = await stream_of_perf_metrics(client, model, asked)
    assert [one for one in got[:-1] if one] == []
    [told] = [json.loads(text) for text in got[-1]]
    assert told["num_output_tokens"] == 30
    assert 16 <= told["num_cached_tokens"] < told["num_prompt_tokens"]
    spans = [told[f"{name}_ms"] for name in ("queue", "prefill", "decode")]
    assert all(span > 0 for span in spans)
    assert sum(spans) <= told["total_ms"]
    assert 0 < told["detokenize_ms"] + told["send_ms"] < told["total_ms"]


async def stream_of_perf_metrics(client, model, inputs):
    outputs = ("text_output", "perf_metrics")
    return [result.as_numpy("perf_metrics").reshape(-1).tolist()
            async for result, _ in responses(client, model, inputs, outputs=outputs)]
