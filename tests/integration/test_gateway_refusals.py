"""What the gateway refuses, before a real server, and how it says so."""

from __future__ import annotations

import json

import pytest
from tests.integration.gateway import get, post

MODEL = "generate"
CHAT = [{"role": "system", "content": "Speak."}, {"role": "user", "content": "Who goes there?"}]


@pytest.mark.parametrize(("field", "value"), [
    ("temperature", -1), ("max_tokens", 0), ("max_tokens", 100_000), ("n", 1000), ("n", "two"),
    ("top_p", 2), ("stop", ["x"] * 17), ("logit_bias", {"1": 1000}), ("seed", 1.5), ("user", 7),
    ("stream", "yes"), ("stream_options", {"include_usage": True}), ("messages", []),
    ("messages", "Hi"), ("top_logprobs", 2), ("max_completion_tokens", "many"),
    ("response_format", {"type": "json_schema"}), ("tool_choice", "required"),
    ("store", True), ("modalities", ["audio"]), ("reasoning_effort", "low"), ("nonsense", 1),
])
@pytest.mark.parametrize("is_stream", [False, True])
def test_what_is_not_supported_is_refused_by_name(demo_gateway, field, value, is_stream):
    body = {"model": MODEL, "messages": CHAT, "stream": is_stream, field: value}
    if (field, is_stream) == ("stream_options", True):
        pytest.skip("it is allowed there")
    status, answer = post(f"{demo_gateway}/v1/chat/completions", body)
    assert status == 400, answer
    assert answer["error"]["type"] == "invalid_request_error"
    assert answer["error"]["param"] == field
    assert answer["error"]["message"].startswith(f"{field}: ")


@pytest.mark.parametrize(("path", "fields", "param"), [
    ("chat/completions", {"messages": CHAT, "max_completion_tokens": 0}, "max_completion_tokens"),
    ("chat/completions", {"messages": CHAT, "logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ("completions", {"prompt": "a", "echo": True, "logprobs": 21}, "logprobs"),
    ("completions", {"prompt": ["a", ""]}, "prompt"),
    ("responses", {"input": "a", "max_output_tokens": 10**6}, "max_output_tokens"),
])
def test_a_field_is_refused_by_the_name_that_it_has_here(demo_gateway, path, fields, param):
    status, answer = post(f"{demo_gateway}/v1/{path}", {"model": MODEL, **fields})
    assert (status, answer["error"]["param"]) == (400, param)
    assert answer["error"]["message"].startswith(f"{param}: ")


@pytest.mark.parametrize(("path", "field", "prompt"), [
    ("chat/completions", "messages", [{"role": "user", "content": "word " * 2000}]),
    ("completions", "prompt", "word " * 2000), ("responses", "input", "word " * 2000)])
def test_a_prompt_without_room_is_told_as_openai_does(demo_gateway, path, field, prompt):
    status, answer = post(f"{demo_gateway}/v1/{path}", {"model": MODEL, field: prompt})
    assert (status, answer["error"]["param"]) == (400, field)
    assert answer["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("body", [
    b"", b"{", b"[]", b'{"model": "generate"}', b'{"messages": []}', b"\xff",
    json.dumps({"model": MODEL, "messages": [{"role": "king", "content": "Hi"}]}).encode(),
    json.dumps({"model": MODEL, "messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "x"}}]}]}).encode(),
])
def test_a_malformed_body_is_refused(demo_gateway, body):
    status, answer = post(f"{demo_gateway}/v1/chat/completions", body)
    assert status == 400
    assert answer["error"]["message"]


@pytest.mark.parametrize("prompt", [
    [], "", [1, "a"], [[]], [True], [10**9], [-1], 7, None, [[1], 2]])
def test_a_prompt_that_is_none_is_refused(demo_gateway, prompt):
    status, answer = post(f"{demo_gateway}/v1/completions", {"model": MODEL, "prompt": prompt})
    assert status == 400
    assert answer["error"]["param"] == "prompt"


def test_one_bad_prompt_of_several_ends_the_call(demo_gateway):
    status, answer = post(f"{demo_gateway}/v1/completions",
                          {"model": MODEL, "prompt": [[5], [10**6]], "max_tokens": 1000})
    assert status == 400
    assert "1000000" in answer["error"]["message"]


@pytest.mark.parametrize(("path", "body"), [
    ("tokenize", {"model": MODEL}), ("tokenize", {"model": MODEL, "prompt": 1}),
    ("tokenize", {"model": MODEL, "prompt": "a", "temperature": 1}),
    ("detokenize", {"model": MODEL, "tokens": [-1]}), ("detokenize", {"model": MODEL}),
])
def test_tokens_of_nothing_are_refused(demo_gateway, path, body):
    status, answer = post(f"{demo_gateway}/{path}", body)
    assert status == 400, answer


def test_health_and_unknown_paths(demo_gateway):
    assert get(f"{demo_gateway}/health/live")[0] == get(f"{demo_gateway}/health/ready")[0] == 200
    status, body = get(f"{demo_gateway}/v1/nothing")
    assert status == 404
    assert json.loads(body)["error"]["type"] == "invalid_request_error"
    assert get(f"{demo_gateway}/v1/completions")[0] == 405
