"""OpenAI's own SDK against the gateway; the reference is transformers.generate."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
from typing import Literal

import openai
import pytest
import torch
from pydantic import BaseModel, Field
from tests.integration.gateway import address_of, get, post, running_gateway
from transformers import AutoModelForCausalLM, AutoTokenizer

from tritonlm.config import DEMO_CHECKPOINT

MODEL = "generate"
CHAT = [{"role": "system", "content": "Speak."}, {"role": "user", "content": "Who goes there?"}]
PROMPTS = ["ROMEO:\n", "JULIET:\nO ", "First Citizen:\n"]


class Person(BaseModel):
    """Short enough for a small model to come to an end."""

    name: str = Field(max_length=12)
    age: int = Field(ge=0, le=120)
    house: Literal["Montague", "Capulet"]


@pytest.fixture(scope="module")
def server(start_server, tmp_path_factory):
    """A server of the demo checkpoint, whose chat template tells of tools, too."""
    checkpoint = tmp_path_factory.mktemp("checkpoint") / "demo"
    shutil.copytree(DEMO_CHECKPOINT, checkpoint)
    template = checkpoint / "chat_template.jinja"
    template.write_text("{% if tools %}{{ tools | tojson }}{% endif %}" + template.read_text())
    return start_server(model=str(checkpoint))


@pytest.fixture(scope="module")
def url(server):
    with running_gateway(address_of(server), "--model-names", "demo=generate",
                         "--tool-parser", "hermes") as url:
        yield url


@pytest.fixture(scope="module")
def client(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(DEMO_CHECKPOINT)


@pytest.fixture(scope="module")
def reference(tokenizer):
    model = AutoModelForCausalLM.from_pretrained(DEMO_CHECKPOINT)

    def generate(ids, max_tokens):
        with torch.no_grad():
            output = model.generate(torch.tensor([ids]), max_new_tokens=max_tokens,
                                    do_sample=False)
        return output[0, len(ids):].tolist()
    return generate


@pytest.fixture(scope="module")
def chat_reference(tokenizer, reference):
    """Token ids of prompt and greedy answer."""
    ids = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
    return ids, reference(ids, 24)


def text_of(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=True)


def test_a_chat_is_what_transformers_makes_of_the_template(client, tokenizer, chat_reference):
    prompt, expected = chat_reference
    answer = client.chat.completions.create(model=MODEL, messages=CHAT, temperature=0,
                                            max_completion_tokens=24)
    [choice] = answer.choices
    assert choice.message.content == text_of(tokenizer, expected)
    assert choice.message.role == "assistant"
    assert choice.finish_reason == ("length" if len(expected) == 24 else "stop")
    assert answer.usage.prompt_tokens == len(prompt)
    assert answer.usage.completion_tokens == len(expected)
    assert answer.usage.total_tokens == len(prompt) + len(expected)
    assert (answer.object, answer.model) == ("chat.completion", MODEL)


def test_a_streamed_chat_adds_up_to_the_same(client, tokenizer, chat_reference):
    prompt, expected = chat_reference
    chunks = list(client.chat.completions.create(
        model=MODEL, messages=CHAT, temperature=0, max_tokens=24, stream=True,
        stream_options={"include_usage": True}))
    *pieces, last = chunks
    assert "".join(c.choices[0].delta.content for c in pieces) == text_of(tokenizer, expected)
    assert [c.choices[0].finish_reason for c in pieces][-1] == (
        "length" if len(expected) == 24 else "stop")
    assert pieces[0].choices[0].delta.role == "assistant"
    assert all(chunk.usage is None for chunk in pieces)
    assert last.choices == []
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (len(prompt), len(expected))
    assert len({chunk.id for chunk in chunks}) == 1


def test_without_include_usage_no_chunk_tells_of_it(client):
    chunks = list(client.chat.completions.create(model=MODEL, messages=CHAT, max_tokens=4,
                                                 stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


def test_completions_of_texts_and_of_ids_are_transformers_own(client, tokenizer, reference):
    ids = [tokenizer.encode(prompt) for prompt in PROMPTS]
    expected = [text_of(tokenizer, reference(each, 12)) for each in ids]
    for prompt in (PROMPTS, ids):
        answer = client.completions.create(model=MODEL, prompt=prompt, max_tokens=12,
                                           temperature=0)
        assert [choice.text for choice in answer.choices] == expected
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        assert answer.usage.prompt_tokens == sum(map(len, ids))
    alone = client.completions.create(model=MODEL, prompt=ids[0], max_tokens=12, temperature=0)
    assert alone.choices[0].text == expected[0]


def test_a_completion_has_sixteen_tokens_unless_asked(client):
    answer = client.completions.create(model=MODEL, prompt="ROMEO:",
                                       extra_body={"ignore_eos": True})
    assert answer.usage.completion_tokens == 16
    assert answer.choices[0].finish_reason == "length"


def test_streams_of_several_prompts_and_sequences_are_told_apart(client):
    call = {"model": MODEL, "prompt": PROMPTS[:2], "max_tokens": 10, "n": 2, "seed": 5}
    whole = client.completions.create(**call)
    texts = dict.fromkeys(range(4), "")
    for chunk in client.completions.create(**call, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert list(texts.values()) == [choice.text for choice in whole.choices]
    assert len(set(texts.values())) == 4
    assert whole.usage.completion_tokens <= 40


def test_a_seed_repeats_and_sequences_follow_from_it(client):
    call = {"model": MODEL, "messages": CHAT, "max_tokens": 12, "seed": 11}
    first, again = (client.chat.completions.create(**call, n=2) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in again.choices]
    second = client.chat.completions.create(**{**call, "seed": 12})
    assert second.choices[0].message.content == texts[1]


def test_stop_texts_cut_and_are_told_of(client, tokenizer, chat_reference):
    text = text_of(tokenizer, chat_reference[1])
    stop = text[5:8]
    answer = client.chat.completions.create(model=MODEL, messages=CHAT, temperature=0,
                                            max_tokens=24, stop=[stop])
    assert answer.choices[0].message.content == text[: text.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


def test_a_bias_bans_a_token(client, tokenizer, chat_reference):
    first = chat_reference[1][0]
    answer = client.chat.completions.create(
        model=MODEL, messages=CHAT, temperature=0, max_tokens=1, logprobs=True,
        logit_bias={str(first): -100})
    [entry] = answer.choices[0].logprobs.content
    assert entry.token != tokenizer.decode([first])


def test_log_probabilities_of_a_chat(client, tokenizer, chat_reference):
    answer = client.chat.completions.create(model=MODEL, messages=CHAT, temperature=0,
                                            max_tokens=5, logprobs=True, top_logprobs=3)
    entries = answer.choices[0].logprobs.content
    assert [entry.token for entry in entries] == [
        tokenizer.decode([token]) for token in chat_reference[1][:5]]
    assert all(len(entry.top_logprobs) == 3 and entry.logprob <= 0 for entry in entries)
    assert all(entry.top_logprobs[0].logprob == entry.logprob for entry in entries)
    assert b"".join(bytes(entry.bytes) for entry in entries).decode() == (
        answer.choices[0].message.content)


def test_an_echo_with_log_probabilities_measures_the_prompt(client, tokenizer, reference):
    prompt = "ROMEO:\nI am the"
    answer = client.completions.create(model=MODEL, prompt=prompt, max_tokens=3, temperature=0,
                                       echo=True, logprobs=2)
    [choice] = answer.choices
    ids = tokenizer.encode(prompt)
    assert choice.text == prompt + text_of(tokenizer, reference(ids, 3))
    told = choice.logprobs
    assert len(told.tokens) == len(ids) + 3 == answer.usage.total_tokens
    assert told.token_logprobs[0] is None
    assert all(logprob <= 0 for logprob in told.token_logprobs[1:])
    for token, offset in zip(told.tokens, told.text_offset, strict=True):
        assert choice.text[offset : offset + len(token)] == token
    assert all(2 <= len(each) <= 3 for each in told.top_logprobs[1:])


def test_fields_that_openai_lacks_are_the_contracts(client):
    first, second = (client.completions.create(
        model=MODEL, prompt="ROMEO:", max_tokens=10, seed=seed,
        extra_body={"top_k": 1, "min_p": 0.0, "priority": "high", "ignore_eos": True})
        for seed in (1, 2))
    assert first.choices[0].text == second.choices[0].text  # top_k 1 is greedy


def test_a_deadline_ends_an_answer_and_is_told_of(client):
    for timeout_ms in (100, 1000, 3000):  # a busy machine may not come to a token in the first
        answer = client.completions.create(model=MODEL, prompt="ROMEO:", max_tokens=1000,
                                           extra_body={"timeout_ms": timeout_ms,
                                                       "ignore_eos": True})
        assert answer.choices[0].finish_reason == "deadline"
        if answer.usage.completion_tokens:
            break
    assert 0 < answer.usage.completion_tokens < 1000


def test_sixty_four_calls_at_once_with_asyncio_are_each_as_alone(url, client):
    alone = client.chat.completions.create(model=MODEL, messages=CHAT, temperature=0,
                                           max_tokens=16).choices[0].message.content

    async def streamed(sdk):
        stream = await sdk.chat.completions.create(model=MODEL, messages=CHAT, temperature=0,
                                                   max_tokens=16, stream=True)
        return "".join([chunk.choices[0].delta.content async for chunk in stream])

    async def whole(sdk):
        answer = await sdk.chat.completions.create(model=MODEL, messages=CHAT, temperature=0,
                                                   max_tokens=16)
        return answer.choices[0].message.content

    async def all_at_once():
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as sdk:
            return await asyncio.gather(*(streamed(sdk) for _ in range(32)),
                                        *(whole(sdk) for _ in range(32)))

    assert asyncio.run(all_at_once()) == [alone] * 64


def test_models_are_listed_by_all_their_names(client):
    assert [model.id for model in client.models.list()] == ["demo", "generate"]
    assert client.models.retrieve("demo").id == "demo"
    answer = client.completions.create(model="demo", prompt="ROMEO:", max_tokens=2)
    assert answer.model == "demo"


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError, match=r"'gpt-9' does not exist.* there are: demo"):
        client.chat.completions.create(model="gpt-9", messages=CHAT)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")


@pytest.mark.parametrize(("field", "value"), [
    ("temperature", -1), ("max_tokens", 0), ("max_tokens", 100_000), ("n", 1000), ("n", "two"),
    ("top_p", 2), ("stop", ["x"] * 17), ("logit_bias", {"1": 1000}), ("seed", 1.5), ("user", 7),
    ("stream", "yes"), ("stream_options", {"include_usage": True}), ("messages", []),
    ("messages", "Hi"), ("top_logprobs", 2), ("max_completion_tokens", "many"),
    ("response_format", {"type": "json_schema"}), ("tool_choice", "required"),
    ("store", True), ("modalities", ["audio"]), ("reasoning_effort", "low"), ("nonsense", 1),
])
@pytest.mark.parametrize("is_stream", [False, True])
def test_what_is_not_supported_is_refused_by_name(url, field, value, is_stream):
    body = {"model": MODEL, "messages": CHAT, "stream": is_stream, field: value}
    if (field, is_stream) == ("stream_options", True):
        pytest.skip("it is allowed there")
    status, answer = post(f"{url}/v1/chat/completions", body)
    assert status == 400, answer
    assert answer["error"]["type"] == "invalid_request_error"
    assert answer["error"]["param"] == field
    assert answer["error"]["message"].startswith(f"{field}: ")


@pytest.mark.parametrize("body", [
    b"", b"{", b"[]", b'{"model": "generate"}', b'{"messages": []}', b"\xff",
    json.dumps({"model": MODEL, "messages": [{"role": "king", "content": "Hi"}]}).encode(),
    json.dumps({"model": MODEL, "messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "x"}}]}]}).encode(),
])
def test_a_malformed_body_is_refused(url, body):
    status, answer = post(f"{url}/v1/chat/completions", body)
    assert status == 400
    assert answer["error"]["message"]


@pytest.mark.parametrize("prompt", [
    [], "", [1, "a"], [[]], [True], [10**9], [-1], 7, None, [[1], 2]])
def test_a_prompt_that_is_none_is_refused(url, prompt):
    status, answer = post(f"{url}/v1/completions", {"model": MODEL, "prompt": prompt})
    assert status == 400
    assert answer["error"]["param"] == "prompt"


def test_one_bad_prompt_of_several_ends_the_call(url):
    status, answer = post(f"{url}/v1/completions",
                          {"model": MODEL, "prompt": [[5], [10**6]], "max_tokens": 1000})
    assert status == 400
    assert "1000000" in answer["error"]["message"]


def test_parts_of_a_text_are_put_together(client):
    parts = [{"type": "text", "text": "Who goes "}, {"type": "text", "text": "there?"}]
    whole, split = (client.chat.completions.create(
        model=MODEL, messages=[CHAT[0], {"role": "user", "content": content}], temperature=0,
        max_tokens=8) for content in (CHAT[1]["content"], parts))
    assert split.choices[0].message.content == whole.choices[0].message.content


def test_an_answer_can_be_sent_back_as_it_is(client):
    answer = client.chat.completions.create(model=MODEL, messages=CHAT, max_tokens=4)
    again = client.chat.completions.create(
        model=MODEL, max_tokens=4,
        messages=[*CHAT, answer.choices[0].message, {"role": "user", "content": "Go on."}])
    assert again.usage.prompt_tokens > answer.usage.prompt_tokens


def test_tokens_there_and_back(url, tokenizer):
    text = "O Romeo, Romeo! Ω"
    status, told = post(f"{url}/tokenize", {"model": MODEL, "prompt": text})
    assert (status, told["tokens"]) == (200, tokenizer.encode(text))
    assert told["count"] == len(told["tokens"])
    assert post(f"{url}/detokenize", {"model": MODEL, "tokens": told["tokens"]}) == (
        200, {"prompt": text})
    status, told = post(f"{url}/tokenize", {"model": MODEL, "messages": CHAT})
    assert told["tokens"] == tokenizer.apply_chat_template(
        CHAT, add_generation_prompt=True, return_dict=False)


@pytest.mark.parametrize(("path", "body"), [
    ("tokenize", {"model": MODEL}), ("tokenize", {"model": MODEL, "prompt": 1}),
    ("tokenize", {"model": MODEL, "prompt": "a", "temperature": 1}),
    ("detokenize", {"model": MODEL, "tokens": [-1]}), ("detokenize", {"model": MODEL}),
])
def test_tokens_of_nothing_are_refused(url, path, body):
    status, answer = post(f"{url}/{path}", body)
    assert status == 400, answer


def test_health_and_unknown_paths(url):
    assert get(f"{url}/health/live")[0] == get(f"{url}/health/ready")[0] == 200
    status, body = get(f"{url}/v1/nothing")
    assert status == 404
    assert json.loads(body)["error"]["type"] == "invalid_request_error"
    assert get(f"{url}/v1/completions")[0] == 405


def test_log_probabilities_are_finite(client):
    answer = client.chat.completions.create(model=MODEL, messages=CHAT, max_tokens=4,
                                            logprobs=True, top_logprobs=20)
    assert all(math.isfinite(each.logprob) for entry in answer.choices[0].logprobs.content
               for each in entry.top_logprobs)


@pytest.mark.parametrize("seed", range(4))
def test_a_chat_is_parsed_into_a_pydantic_model(client, seed):
    answer = client.chat.completions.parse(
        model=MODEL, messages=CHAT, temperature=1, seed=seed, response_format=Person)
    [choice] = answer.choices
    assert choice.finish_reason == "stop"
    assert isinstance(choice.message.parsed, Person)
    with client.chat.completions.stream(model=MODEL, messages=CHAT, temperature=1, seed=seed,
                                        response_format=Person) as stream:
        streamed = stream.get_final_completion()
    assert streamed.choices[0].message.parsed == choice.message.parsed


@pytest.mark.parametrize("choice", ["required", {"type": "function",
                                                 "function": {"name": "Person"}}])
def test_who_has_to_call_a_tool_does(client, choice):
    ask = {"model": MODEL, "messages": CHAT, "max_tokens": 400, "seed": 3, "tool_choice": choice,
           "parallel_tool_calls": False, "tools": [openai.pydantic_function_tool(Person)]}
    answer = client.chat.completions.parse(**ask)
    assert answer.choices[0].finish_reason == "tool_calls"
    [call] = answer.choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, Person)
    with client.chat.completions.stream(**ask) as stream:
        [streamed] = stream.get_final_completion().choices[0].message.tool_calls
    assert streamed.function.parsed_arguments == call.function.parsed_arguments


def test_any_object_is_an_object(client, tokenizer):
    [closing] = tokenizer.encode("}", add_special_tokens=False)
    answer = client.chat.completions.create(
        model=MODEL, messages=CHAT, response_format={"type": "json_object"},
        logit_bias={closing: 100})
    assert json.loads(answer.choices[0].message.content) == {}


def test_a_completion_is_held_to_a_choice(client):
    answer = client.completions.create(model=MODEL, prompt=PROMPTS, n=2,
                                       extra_body={"guided_choice": ["aye", "nay"]})
    assert {choice.text for choice in answer.choices} <= {"aye", "nay"}
    assert {choice.finish_reason for choice in answer.choices} == {"stop"}


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_schema_that_cannot_be_held_is_refused(client, is_stream):
    schema = {"type": "array", "uniqueItems": True}
    with pytest.raises(openai.BadRequestError, match="uniqueItems") as refusal:
        client.chat.completions.create(
            model=MODEL, messages=CHAT, stream=is_stream, response_format={
                "type": "json_schema", "json_schema": {"name": "set", "schema": schema}})
    assert refusal.value.param == "guided_json"


def test_a_response_is_what_a_chat_of_it_says(client):
    given = {"model": MODEL, "temperature": 0}
    chat = client.chat.completions.create(messages=CHAT, max_tokens=9, **given)
    response = client.responses.create(instructions=CHAT[0]["content"], max_output_tokens=9,
                                       input=CHAT[1]["content"], **given)
    assert response.output_text == chat.choices[0].message.content
    assert response.usage.input_tokens == chat.usage.prompt_tokens
    assert response.usage.output_tokens == chat.usage.completion_tokens
    parsed = client.responses.parse(model=MODEL, input="Who?", text_format=Person)
    assert isinstance(parsed.output_parsed, Person)
