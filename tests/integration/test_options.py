"""Options of generation on a live server, through both routes: n, log probabilities, penalties."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from itertools import chain

import aiohttp
import jsonschema
import pytest
import torch
import tritonclient.grpc.aio as grpcclient
from inference import OUTPUTS, gauge, responses, stream
from tests.drills.waiting import found
from transformers import AutoModelForCausalLM, AutoTokenizer

from tritonlm.config import DEMO_CHECKPOINT

PROMPT = "ROMEO:\nWhat say you"
SAMPLED = {"text_input": PROMPT, "max_tokens": 20, "temperature": 1.0, "seed": 11}
GREEDY = {"text_input": PROMPT, "max_tokens": 24, "temperature": 0.0}
ALL_OUTPUTS = (*OUTPUTS, "sequence_index", "logprobs")
MODELS = pytest.mark.parametrize("model", ["generate", "text_generation"])


@pytest.fixture(scope="module")
def server(demo_server):
    return demo_server


@pytest.fixture
async def client(server):
    async with grpcclient.InferenceServerClient(server.grpc_url) as client:
        yield client


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(DEMO_CHECKPOINT)


@pytest.fixture(scope="module")
def log_softmax():
    model = AutoModelForCausalLM.from_pretrained(DEMO_CHECKPOINT, dtype=torch.float32)

    def of(ids):
        with torch.inference_mode():
            return model(torch.tensor([ids])).logits[0].log_softmax(-1)

    return of


async def answers(client, model, inputs, **options):
    """The outputs of each response, as lists."""
    got = []
    async for result, error in responses(client, model, inputs, outputs=ALL_OUTPUTS, **options):
        assert error is None
        got.append({name: result.as_numpy(name)[0].tolist() for name in ALL_OUTPUTS})
    return got


def joined(lists):
    return list(chain.from_iterable(lists))


async def alone(client, model, index):
    """What the sequence number `index` of `SAMPLED` should be: a request with its own seed."""
    return await stream(client, model, {**SAMPLED, "seed": SAMPLED["seed"] + index})


@MODELS
async def test_n_sequences_come_in_one_response(client, model):
    [answer] = await answers(client, model, {**SAMPLED, "n": 3})
    assert answer["sequence_index"] == [0, 1, 2]
    assert len(answer["finish_reason"]) == 3
    start = 0
    for index, num_ids in enumerate(answer["num_output_tokens"]):
        expected = await alone(client, model, index)
        assert answer["text_output"][index].decode() == expected.text
        assert answer["output_ids"][start : start + num_ids] == expected.token_ids
        start += num_ids
    assert start == len(answer["output_ids"])
    assert len(set(answer["text_output"])) == 3
    assert answer["logprobs"] == []


@MODELS
async def test_n_sequences_stream_side_by_side(client, model):
    chunks = await answers(client, model, {**SAMPLED, "n": 4, "stream": True})
    for index in range(4):
        mine = [chunk for chunk in chunks if chunk["sequence_index"] == [index]]
        expected = await alone(client, model, index)
        assert b"".join(chunk["text_output"][0] for chunk in mine).decode() == expected.text
        assert joined(chunk["output_ids"] for chunk in mine) == expected.token_ids
        assert [chunk["chunk_index"] for chunk in mine] == [[i] for i in range(len(mine))]
        assert [chunk["finish_reason"] != [b""] for chunk in mine] == [
            *[False] * (len(mine) - 1), True]


@MODELS
async def test_http_gives_n_texts_in_a_list(server, client, model):
    async with (aiohttp.ClientSession() as session,
                session.post(f"{server.http_url}/v2/models/{model}/generate",
                             json={**SAMPLED, "n": 2}) as answer):
        body = await answer.json()
    assert body["text_output"] == [(await alone(client, model, i)).text for i in range(2)]


@MODELS
async def test_a_stop_text_ends_one_sequence_and_not_the_others(client, model):
    [answer] = await answers(client, model, {**SAMPLED, "n": 8, "stop": ["e"], "max_tokens": 3})
    assert len(set(answer["finish_reason"])) == 2
    assert not any(b"e" in text for text in answer["text_output"])


@MODELS
@pytest.mark.parametrize("is_stream", [True, False])
async def test_a_cancel_ends_all_sequences(server, client, model, is_stream):
    long = {**SAMPLED, "n": 8, "max_tokens": 900, "ignore_eos": True, "stream": is_stream,
            "request_id": "several"}
    wait_for_blocks(server, lambda used: used == 0)  # the gauge lags behind the test before
    # In a thread: the stream keeps the event loop busy.
    cancelling = asyncio.create_task(asyncio.to_thread(cancel_when_running, server, model))
    got = await answers(client, model, long)
    assert await cancelling == "cancelled"
    reasons = [reason for answer in got for reason in answer["finish_reason"]]
    assert [reason for reason in reasons if reason] == [b"cancelled"] * 8
    wait_for_blocks(server, lambda used: used == 0)


def cancel_when_running(server, model):
    """The finish reason that the cancel is answered with."""
    wait_for_blocks(server, lambda used: used > 0)
    body = json.dumps({"cancel": True, "request_id": "several"}).encode()
    url = f"{server.http_url}/v2/models/{model}/generate"
    with urllib.request.urlopen(url, body, timeout=30) as reply:
        return json.load(reply)["finish_reason"]


def wait_for_blocks(server, is_expected):
    found(lambda: gauge(server.metrics_url, "tritonlm_kv_blocks_used"), is_expected)


def assert_entries(entries, ids, first, expected, tokenizer, num_alternatives):
    """`entries` are those of `ids` from number `first` on."""
    assert [entry["id"] for entry in entries] == ids[first:]
    for position, entry in enumerate(entries, start=first):
        row = expected[position - 1]
        assert entry["logprob"] == pytest.approx(row[entry["id"]].item(), abs=1e-4)
        best = row.topk(num_alternatives)
        assert [one["id"] for one in entry["top_logprobs"]] == best.indices.tolist()
        assert [one["logprob"] for one in entry["top_logprobs"]] == pytest.approx(
            best.values.tolist(), abs=1e-4)
    text = b"".join(bytes(entry["bytes"]) for entry in entries).decode(errors="replace")
    assert text == tokenizer.decode(ids[first:])
    assert all(bytes(entry["bytes"]).decode(errors="replace") == entry["token"]
               for entry in entries)


@MODELS
@pytest.mark.parametrize("is_stream", [True, False])
async def test_logprobs_are_those_of_the_model(client, tokenizer, log_softmax, model, is_stream):
    options = {"num_logprobs": 4, "stream": is_stream, "repetition_penalty": 1.2}
    chunks = await answers(client, model, {**GREEDY, **options})
    ids = joined(chunk["output_ids"] for chunk in chunks)
    told = [json.loads(chunk["logprobs"][0]) for chunk in chunks]
    assert [len(one["content"]) for one in told] == [len(chunk["output_ids"]) for chunk in chunks]
    prompt_ids = tokenizer(PROMPT)["input_ids"]
    everything = prompt_ids + ids
    entries = joined(one["content"] for one in told)
    assert_entries(entries, everything, len(prompt_ids), log_softmax(everything), tokenizer, 4)
    assert not any("prompt" in one for one in told)


@MODELS
@pytest.mark.parametrize("is_stream", [True, False])
async def test_prompt_logprobs_come_once(client, tokenizer, log_softmax, model, is_stream):
    options = {"prompt_logprobs": 2, "stream": is_stream, "n": 2}
    chunks = await answers(client, model, {**GREEDY, **options})
    told = [json.loads(text) for chunk in chunks for text in chunk["logprobs"]]
    [entries] = [one["prompt"] for one in told if "prompt" in one]
    assert not any(one["content"] for one in told)
    prompt_ids = tokenizer(PROMPT)["input_ids"]
    assert entries[0] is None
    assert_entries(entries[1:], prompt_ids, 1, log_softmax(prompt_ids), tokenizer, 2)


async def test_logprobs_are_an_option_of_json_and_parameters(client):
    for parameters in ({"logprobs": 1}, {"sampling_parameters": '{"logprobs": 1}'}):
        [answer] = await answers(client, "text_generation", GREEDY, parameters=parameters)
        assert len(json.loads(answer["logprobs"][0])["content"][0]["top_logprobs"]) == 1


@MODELS
async def test_a_bad_word_does_not_come(client, model):
    plain = await stream(client, model, GREEDY)
    word = next(word for word in plain.text.split() if word.isalpha())
    got = await stream(client, model, {**GREEDY, "bad_words": [word]})
    assert word in plain.text
    assert word not in got.text


@MODELS
async def test_a_bias_decides(client, tokenizer, model):
    [token_id] = tokenizer.encode("!", add_special_tokens=False)
    got = await stream(client, model, {**GREEDY, "logit_bias": json.dumps({token_id: 100})})
    assert got.token_ids == [token_id] * GREEDY["max_tokens"]
    got = await stream(client, model, {
        **GREEDY, "logit_bias": json.dumps({token_id: 100}), "frequency_penalty": 2.0,
        "presence_penalty": 2.0, "repetition_penalty": 100.0})
    assert len(set(got.token_ids)) > 5


@MODELS
async def test_stop_texts_and_tokens_wait_for_min_tokens(client, model):
    plain = await stream(client, model, GREEDY)
    stop = {"stop": ["e"], "stop_token_ids": plain.token_ids[:3]}
    assert (await stream(client, model, {**GREEDY, **stop})).num_output_tokens < 8
    got = await stream(client, model, {**GREEDY, **stop, "min_tokens": 8})
    assert got.num_output_tokens >= 8
    assert "e" in got.text


@MODELS
async def test_priority_and_user_are_taken(server, client, model):
    plain = await stream(client, model, GREEDY)
    got = await stream(client, model, {**GREEDY, "priority": "urgent", "user": "ann"})
    assert got.text == plain.text
    async with (aiohttp.ClientSession() as session,
                session.post(f"{server.http_url}/v2/models/{model}/generate",
                             json={**GREEDY, "priority": "low", "user": "bob"}) as answer):
        assert (await answer.json())["text_output"] == plain.text


@MODELS
async def test_more_sequences_than_the_server_allows_are_refused(client, model):
    got = await stream(client, model, {**SAMPLED, "n": 9})
    assert "n: 9 is not allowed; allowed: 1 to max_sequences, 8" in got.error


@MODELS
async def test_every_sequence_is_held_to_the_schema(client, model):
    schema = {"type": "object", "required": ["lines"], "additionalProperties": False,
              "properties": {"lines": {"type": "array", "minItems": 2, "maxItems": 2,
                                       "items": {"type": "string", "maxLength": 20}}}}
    [whole] = await answers(client, model, SAMPLED | {
        "max_tokens": 400, "n": 4, "guided_json": json.dumps(schema)})
    for text, reason in zip(whole["text_output"], whole["finish_reason"], strict=True):
        assert reason == b"stop"
        jsonschema.validate(json.loads(text), schema)
    assert len(set(whole["text_output"])) == 4
