"""Every bad request gets an error that names field, value and what is allowed."""

from __future__ import annotations

import aiohttp
import numpy as np
import pytest
import tritonclient.grpc.aio as grpcclient
from inference import stream

GOOD = {"text_input": "ROMEO:", "max_tokens": 2}
IDS = {"input_ids": [5, 6, 7], "max_tokens": 2}
BAD = {
    "empty prompt": ({**GOOD, "text_input": ""}, ["text_input", "''", "empty"]),
    "missing prompt": ({"max_tokens": 2}, ["prompt", "nothing", "exactly one of"]),
    "ids too large": ({**IDS, "input_ids": [5, 2048]}, ["input_ids", "2048", "0 to 2047"]),
    "negative ids": ({**IDS, "input_ids": [5, -1]}, ["input_ids", "-1", "0 to 2047"]),
    "too long": ({**GOOD, "text_input": "my lord " * 2000}, ["prompt", "tokens", "1 to 1023"]),
    "a megabyte": ({**GOOD, "text_input": "O my lord " * 105_000}, ["prompt", "1 to 1023"]),
    "max_tokens 0": ({**GOOD, "max_tokens": 0}, ["max_tokens", "0", "1 to"]),
    "max_tokens negative": ({**GOOD, "max_tokens": -5}, ["max_tokens", "-5", "1 to"]),
    "max_tokens huge": ({**GOOD, "max_tokens": 10**9}, ["max_tokens", "1000000000", "1 to 1"]),
    "temperature negative": ({**GOOD, "temperature": -0.5}, ["temperature", "-0.5", "0"]),
    "temperature NaN": ({**GOOD, "temperature": float("nan")}, ["temperature", "nan", "finite"]),
    "temperature infinite": ({**GOOD, "temperature": float("inf")}, ["temperature", "inf"]),
    "top_p 0": ({**GOOD, "top_p": 0.0}, ["top_p", "0.0", "more than 0"]),
    "top_k": ({**GOOD, "top_k": -2}, ["top_k", "-2", "-1 or 0"]),
    "invalid UTF-8": ({**GOOD, "text_input": b"\xff\xfe"}, ["text_input", "UTF-8"]),
    "messages not JSON": ({"messages": "hello"}, ["messages", "'hello'", "JSON list"]),
    "messages without role": ({"messages": '[{"content": "x"}]'}, ["messages", "role"]),
    "sampling_parameters": ({**GOOD, "sampling_parameters": "[1]"}, ["sampling_parameters"]),
    "unknown key in JSON": ({**GOOD, "sampling_parameters": '{"topp": 1}'}, ["topp", "known"]),
    "two stop names": ({**GOOD, "stop": ["a"], "stop_words": ["b"]}, ["stop"]),
    "wrong dtype": ({**GOOD, "temperature": 1}, ["temperature", "FP32"]),
    "wrong shape": ({**GOOD, "max_tokens": np.array([[1, 2]], np.int32)}, ["max_tokens"]),
    "no batch dimension": ({**GOOD, "max_tokens": np.array([2], np.int32)}, ["max_tokens"]),
    "two prompts in one": (
        {**GOOD, "text_input": np.array([[b"a"], [b"b"]], np.object_)}, ["text_input"]),
    "typical_p": ({**GOOD, "typical_p": 1.5}, ["typical_p", "1.5", "at most 1"]),
    "repetition_penalty": ({**GOOD, "repetition_penalty": 0.0}, ["repetition_penalty", "0.0"]),
    "presence_penalty": ({**GOOD, "presence_penalty": 2.5}, ["presence_penalty", "-2 to 2"]),
    "frequency_penalty": ({**GOOD, "frequency_penalty": -3.0}, ["frequency_penalty", "-2 to 2"]),
    "min_tokens": ({**GOOD, "min_tokens": 3}, ["min_tokens", "3", "0 to max_tokens, 2"]),
    "bias not JSON": ({**GOOD, "logit_bias": "5"}, ["logit_bias", "'5'", "JSON object"]),
    "bias too large": ({**GOOD, "logit_bias": '{"5": 101}'}, ["logit_bias", "-100 to 100"]),
    "bias of no token": ({**GOOD, "logit_bias": '{"2048": 1}'}, ["logit_bias", "2048", "2047"]),
    "bad word too long": ({**GOOD, "bad_words": ["what " * 20]}, ["bad_words", "16 tokens"]),
    "no schema": ({**GOOD, "guided_json": "[1]"}, ["guided_json", "'[1]'", "JSON schema"]),
    "a schema of nothing": (
        {**GOOD, "guided_json": '{"type": "foo"}'}, ["guided_json", "Invalid type: foo"]),
    "no regex": ({**GOOD, "guided_regex": "a("}, ["guided_regex", "'a('", "unclosed group"]),
    "two grammars": ({**GOOD, "guided_regex": "a", "guided_grammar": "start: /a/"},
                     ["guided_regex and guided_grammar", "one of them"]),
    "endless grammar": ({**GOOD, "guided_choice": ["a"], "ignore_eos": True}, ["ignore_eos"]),
    "n 0": ({**GOOD, "n": 0}, ["n", "0", "1 to 128"]),
    "logprobs": ({**GOOD, "num_logprobs": 21}, ["logprobs", "21", "0 to 20"]),
    "prompt_logprobs": ({**GOOD, "prompt_logprobs": -1}, ["prompt_logprobs", "-1", "0 to 20"]),
    "priority": ({**GOOD, "priority": "soon"}, ["priority", "'soon'", "urgent, high, normal, low"]),
    "timeout": ({**GOOD, "timeout_ms": 0}, ["timeout_ms", "0", "1 to"]),
    "cancel without id": ({"cancel": True}, ["request_id"]),
}
ONLY_GENERATE = {
    "both text and ids": ({**GOOD, **IDS}, ["prompt", "text_input and input_ids", "exactly one"]),
    "no ids": ({**IDS, "input_ids": np.zeros((1, 0), np.int32)}, ["input_ids", "empty"]),
}


@pytest.fixture(scope="module")
def server(demo_server):
    return demo_server


async def ask(server, model, inputs, **options):
    async with grpcclient.InferenceServerClient(server.grpc_url) as client:
        return await stream(client, model, inputs, **options)


CASES = [("generate", name) for name in {**BAD, **ONLY_GENERATE}]
CASES += [("text_generation", name) for name in BAD if not name.startswith(("ids", "negative ids"))]


@pytest.mark.parametrize(("model", "name"), CASES)
async def test_bad_input_is_refused_by_name_and_the_next_request_works(server, model, name):
    inputs, words = {**BAD, **ONLY_GENERATE}[name]
    got = await ask(server, model, inputs)
    assert got.texts == []
    for word in words:
        assert word in got.error
    assert len(got.error) < 1000
    assert (await ask(server, model, GOOD)).error == ""


@pytest.mark.parametrize("model", ["generate", "text_generation"])
async def test_an_unknown_request_parameter_is_refused(server, model):
    got = await ask(server, model, GOOD, parameters={"max_token": 3})
    assert "max_token" in got.error
    assert "max_tokens" in got.error


@pytest.mark.parametrize("model", ["generate", "text_generation"])
@pytest.mark.parametrize("body", [
    {"max_tokens": 2}, {"text_input": ""}, {"text_input": "a", "temperature": -1.0},
    {"text_input": "a", "nonsense": 1}, {"text_input": "a", "max_tokens": 0},
], ids=str)
async def test_http_answers_bad_input_with_400(server, model, body):
    async with (aiohttp.ClientSession() as session,
                session.post(f"{server.http_url}/v2/models/{model}/generate",
                             json=body) as answer):
        assert answer.status == 400
        assert "is not allowed" in (await answer.json())["error"]


@pytest.mark.parametrize("model", ["generate", "text_generation"])
@pytest.mark.parametrize("field", [b'"id": "\xff"', b'"\xff": 1'])
async def test_http_answers_bytes_that_are_no_text_with_400(server, model, field):
    async with (aiohttp.ClientSession() as session,
                session.post(f"{server.http_url}/v2/models/{model}/generate",
                             data=b'{"text_input": "a", %s}' % field) as answer):
        assert answer.status == 400
        assert "it must be UTF-8: invalid start byte" in (await answer.json())["error"]
