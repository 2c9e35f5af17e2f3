"""Streams of a live server: equal to transformers, alone and together, over gRPC and HTTP."""

from __future__ import annotations

import asyncio
import itertools

import aiohttp
import pytest
import torch
import tritonclient.grpc.aio as grpcclient
from inference import http_stream, stream
from transformers import AutoModelForCausalLM, AutoTokenizer

from tritonlm.config import DEMO_CHECKPOINT

NUM_STREAMS = 64
SPEAKERS = ("ROMEO", "JULIET", "First Citizen", "KING RICHARD III", "GLOUCESTER", "MENENIUS")
OPENINGS = ("What say you", "I pray thee,", "My lord,", "O,", "", "Now is the time to speak of it",
            "Good morrow", "Not so", "Away with him! He hath", "If", "Come")
PROMPTS = [f"{speaker}:\n{opening}" for speaker, opening in itertools.product(SPEAKERS, OPENINGS)]
MAX_TOKENS = 24


@pytest.fixture(scope="module")
def server(demo_server):
    return demo_server


@pytest.fixture(scope="module")
def expected():
    """Greedy continuations of PROMPTS by transformers."""
    tokenizer = AutoTokenizer.from_pretrained(DEMO_CHECKPOINT)
    model = AutoModelForCausalLM.from_pretrained(DEMO_CHECKPOINT, dtype=torch.float32)
    outs = {}
    for prompt in PROMPTS[:NUM_STREAMS]:
        ids = tokenizer(prompt, return_tensors="pt")
        out = model.generate(**ids, do_sample=False, max_new_tokens=MAX_TOKENS)
        out_ids = out[0, ids["input_ids"].shape[1]:].tolist()
        outs[prompt] = out_ids, tokenizer.decode(out_ids, skip_special_tokens=True)
    return outs


def check(got, expected):
    ids, text = expected
    assert got.error == ""
    assert got.token_ids == ids
    assert got.text == text
    assert got.finish_reason == ("length" if len(ids) == MAX_TOKENS else "stop")
    assert got.num_output_tokens == len(ids)
    assert got.indices == list(range(len(got.indices)))


def request(prompt, **options):
    return {"text_input": prompt, "max_tokens": MAX_TOKENS, "temperature": 0.0, "stream": True,
            **options}


@pytest.mark.parametrize("model", ["generate", "text_generation"])
async def test_concurrent_grpc_streams_equal_each_prompt_alone(server, expected, model):
    async with grpcclient.InferenceServerClient(server.grpc_url) as client:
        everything = await asyncio.gather(
            *(stream(client, model, request(prompt)) for prompt in expected))
    for got, answer in zip(everything, expected.values(), strict=True):
        check(got, answer)
        assert len(got.texts) > 1


@pytest.mark.parametrize("model", ["generate", "text_generation"])
async def test_concurrent_http_streams_equal_each_prompt_alone(server, expected, model):
    connector = aiohttp.TCPConnector(limit=NUM_STREAMS)
    async with aiohttp.ClientSession(connector=connector) as session:
        everything = await asyncio.gather(
            *(http_stream(session, server.http_url, model, request(prompt))
              for prompt in expected))
    for got, answer in zip(everything, expected.values(), strict=True):
        check(got, answer)


@pytest.mark.parametrize("model", ["generate", "text_generation"])
async def test_without_stream_there_is_one_response(server, expected, model):
    prompt, (ids, text) = next(iter(expected.items()))
    async with grpcclient.InferenceServerClient(server.grpc_url) as client:
        got = await stream(client, model, request(prompt, stream=False))
    check(got, (ids, text))
    assert got.texts == [text]
    async with (aiohttp.ClientSession() as session,
                session.post(f"{server.http_url}/v2/models/{model}/generate",
                             json=request(prompt, stream=False)) as answer):
        body = await answer.json()
    assert (answer.status, body["text_output"]) == (200, text)


async def test_ids_in_give_the_same_as_their_text(server, expected):
    prompt, answer = next(iter(expected.items()))
    ids = AutoTokenizer.from_pretrained(DEMO_CHECKPOINT)(prompt)["input_ids"]
    given = request(prompt)
    del given["text_input"]
    async with grpcclient.InferenceServerClient(server.grpc_url) as client:
        check(await stream(client, "generate", {"input_ids": ids, **given}), answer)


@pytest.mark.parametrize("model", ["generate", "text_generation"])
async def test_a_seed_gives_the_same_text_in_any_company(server, model):
    given = request(PROMPTS[0], temperature=1.0, top_p=0.95, top_k=50, seed=11, max_tokens=40)
    others = [request(prompt, temperature=1.0) for prompt in PROMPTS[1:17]]
    async with grpcclient.InferenceServerClient(server.grpc_url) as client:
        alone = await stream(client, model, given)
        crowd = await asyncio.gather(*(stream(client, model, one) for one in [given, *others]))
        unseeded = [await stream(client, model, {k: v for k, v in given.items() if k != "seed"})
                    for _ in range(2)]
    assert crowd[0].token_ids == alone.token_ids
    assert unseeded[0].token_ids != unseeded[1].token_ids


@pytest.mark.parametrize("model", ["generate", "text_generation"])
async def test_chat_messages_go_through_the_template(server, model):
    messages = [{"role": "user", "content": "What news, my lord?"}]
    tokenizer = AutoTokenizer.from_pretrained(DEMO_CHECKPOINT)
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    options = {"max_tokens": 60, "temperature": 0.0, "stream": True}
    async with grpcclient.InferenceServerClient(server.grpc_url) as client:
        chat = await stream(client, model, {
            "messages": '[{"role": "user", "content": "What news, my lord?"}]', **options})
        plain = await stream(client, "generate", {"input_ids": ids, **options})
    assert chat.num_input_tokens == len(ids)
    assert (chat.text, chat.token_ids) == (plain.text, plain.token_ids)


@pytest.mark.parametrize("model", ["generate", "text_generation"])
async def test_the_prompt_comes_first_when_asked_for(server, expected, model):
    prompt, (_, text) = next(iter(expected.items()))
    for is_stream in (True, False):
        async with grpcclient.InferenceServerClient(server.grpc_url) as client:
            got = await stream(client, model, request(
                prompt, exclude_input_in_output=False, stream=is_stream))
        assert got.text == prompt + text


async def test_options_come_as_tensors_parameters_or_json(server, expected):
    prompt, answer = next(iter(expected.items()))
    async with grpcclient.InferenceServerClient(server.grpc_url) as client:
        as_parameters = await stream(
            client, "generate", {"text_input": prompt},
            parameters={"max_tokens": str(MAX_TOKENS), "temperature": "0", "stream": True})
        as_json = await stream(client, "text_generation", {
            "text_input": prompt, "stream": True,
            "sampling_parameters": f'{{"max_tokens": {MAX_TOKENS}, "temperature": 0.0}}'})
    check(as_parameters, answer)
    check(as_json, answer)
