"""OpenAI's responses, as its SDK reads them."""

import json

import openai
import pytest
from pydantic import BaseModel
from tests.fakes.triton_service import chunk, tensors


class City(BaseModel):
    name: str


def says(text, finish_reason="stop"):
    """The text in pieces of four characters, or at once."""
    async def script(request, send):
        is_stream = any(tensor.name == "stream" for tensor in request.inputs)
        size = 4 if is_stream else len(text)
        for start in range(0, len(text), size):
            is_last = start + size >= len(text)
            send(chunk(text[start : start + size],
                       finish_reason=finish_reason if is_last else "", is_final=is_last))
    return script


def sdk(url):
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


async def test_a_response_tells_of_its_text_and_of_its_call(gateway):
    async with gateway(says("It rains.")) as (url, server), sdk(url) as client:
        response = await client.responses.create(
            model="generate", input="How is it?", instructions="Be short.", max_output_tokens=9,
            temperature=0.5, metadata={"a": "b"})
    assert response.output_text == "It rains."
    assert (response.status, response.object, response.error) == ("completed", "response", None)
    assert (response.instructions, response.max_output_tokens) == ("Be short.", 9)
    assert (response.temperature, response.metadata) == (0.5, {"a": "b"})
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    assert response.usage.input_tokens_details.cached_tokens == 0
    assert response.usage.output_tokens_details.reasoning_tokens == 0
    sent = tensors(server.requests[0])
    assert json.loads(sent["messages"][0][0]) == [
        {"role": "system", "content": "Be short."}, {"role": "user", "content": "How is it?"}]
    assert sent["max_tokens"] == [[9]]


async def test_the_events_of_a_stream_add_up_to_the_response(gateway):
    async with gateway(says("It rains again.")) as (url, _), sdk(url) as client:
        events = [event async for event in await client.responses.create(
            model="generate", input="How is it?", stream=True)]
    types = [event.type.removeprefix("response.") for event in events]
    assert types == ["created", "in_progress", "output_item.added", "content_part.added",
                     *["output_text.delta"] * types.count("output_text.delta"),
                     "output_text.done", "content_part.done", "output_item.done", "completed"]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == events[-1].response.output_text == "It rains again."
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert len({event.response.id for event in (events[0], events[1], events[-1])}) == 1


async def test_the_sdk_follows_a_stream_and_parses_what_comes(gateway):
    async with gateway(says('{"name": "Ulm"}')) as (url, server), sdk(url) as client, (
            client.responses.stream(model="generate", input="Where?", text_format=City)) as stream:
        response = await stream.get_final_response()
    assert response.output_parsed == City(name="Ulm")
    schema = json.loads(tensors(server.requests[0])["guided_json"][0][0])
    assert schema["properties"].keys() == {"name"}


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(("finish_reason", "status", "reason"), [
    ("length", "incomplete", "max_output_tokens"), ("deadline", "incomplete", "deadline")])
async def test_an_answer_cut_short_is_incomplete(gateway, is_stream, finish_reason, status, reason):
    async with gateway(says("It ra", finish_reason)) as (url, _), sdk(url) as client:
        answer = await client.responses.create(model="generate", input="How?", stream=is_stream)
        response = [event async for event in answer][-1].response if is_stream else answer
    assert (response.status, response.incomplete_details.reason) == (status, reason)
    assert response.output_text == "It ra"


async def test_an_answer_can_be_sent_back(gateway):
    async with gateway(says("Rain.")) as (url, server), sdk(url) as client:
        first = await client.responses.create(model="generate", input="How?")
        history = [{"role": "developer", "content": [{"type": "input_text", "text": "Be kind."}]},
                   {"role": "user", "content": "How?"}, *first.output,
                   {"role": "user", "content": "And now?"}]
        await client.responses.create(model="generate", input=history)
    assert json.loads(tensors(server.requests[1])["messages"][0][0]) == [
        {"role": "system", "content": "Be kind."}, {"role": "user", "content": "How?"},
        {"role": "assistant", "content": "Rain."}, {"role": "user", "content": "And now?"}]


async def test_an_answer_can_be_sent_back_as_the_sdk_has_parsed_it(gateway):
    async with gateway(says('{"name": "Ulm"}')) as (url, server), sdk(url) as client:
        first = await client.responses.parse(model="generate", input="Where?", text_format=City)
        await client.responses.create(model="generate", input=[*first.output, {
            "role": "user", "content": "And now?"}])
    [said, _] = json.loads(tensors(server.requests[1])["messages"][0][0])
    assert said == {"role": "assistant", "content": '{"name": "Ulm"}'}


@pytest.mark.parametrize(("fields", "param"), [
    ({"previous_response_id": "resp_1"}, "previous_response_id"), ({"store": True}, "store"),
    ({"background": True}, "background"), ({"truncation": "auto"}, "truncation"),
    ({"tools": [{"type": "web_search"}]}, "tools"), ({"reasoning": {"effort": "low"}}, "reasoning"),
    ({"input": []}, "input"), ({"input": [{"role": "user", "content": [
        {"type": "input_image", "image_url": "x"}]}]}, "input"),
    ({"text": {"format": {"type": "json_schema"}}}, "text.format"),
    ({"extra_body": {"n": 2}}, "n"), ({"temperature": -1}, "temperature"),
    ({"max_output_tokens": 5, "extra_body": {"max_tokens": 6}}, "max_output_tokens"),
])
async def test_what_is_not_supported_is_refused_by_name(gateway, fields, param):
    async with gateway(says("x")) as (url, server), sdk(url) as client:
        with pytest.raises(openai.BadRequestError) as refusal:
            await client.responses.create(**{"model": "generate", "input": "Hi"} | fields)
    assert refusal.value.param.startswith(param)
    assert server.requests == []
