"""Calls of tools: found in what models write, told as OpenAI has them."""

import json

import openai
import pytest
from pydantic import BaseModel
from tests.fakes.triton_service import chunk, tensors

from tritonlm.gateway.openai.tool_parsers import PARSERS, ToolCall

CALLS = [ToolCall("weather", '{"city": "Köln"}'), ToolCall("time", "{}")]
HERMES = ('Let me see.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n'
          '</tool_call>\n<tool_call>{"name": "time", "arguments": {}}</tool_call>')
LLAMA = ('{"name": "weather", "parameters": {"city": "Köln"}}; '
         '{"name": "time", "parameters": {}}')
MISTRAL = ('[{"name": "weather", "arguments": {"city": "Köln"}}, '
           '{"name": "time", "arguments": {}}]')
WEATHER = {"type": "function", "function": {
    "name": "weather", "description": "How it is.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}
QUESTION = [{"role": "user", "content": "How is it in Köln?"}]


def parse(parser, pieces):
    reader = PARSERS[parser]()
    said, calls = "", []
    for place, piece in enumerate(pieces):
        text, more = reader.push(piece, place == len(pieces) - 1)
        said += text
        calls += more
    return said, calls


@pytest.mark.parametrize(("parser", "text", "said"), [
    ("hermes", HERMES, "Let me see.\n"), ("llama3", LLAMA, ""),
    ("llama3", f"<|python_tag|>{LLAMA}", ""), ("mistral", MISTRAL, ""),
    ("mistral", f"[TOOL_CALLS]{MISTRAL}", ""), ("mistral", f"[TOOL_CALLS] {MISTRAL}", ""),
])
@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_calls_are_found_however_the_text_is_cut(parser, text, said, size):
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    assert parse(parser, pieces) == (said, CALLS)
    assert parse(parser, [*pieces, ""]) == (said, CALLS)


@pytest.mark.parametrize(("parser", "text"), [
    ("hermes", "a <tool b </tool_call> <"), ("hermes", "<tool_call>{no JSON}</tool_call> x"),
    ("hermes", '<tool_call>{"name": 5}</tool_call>'), ("hermes", "x <tool_call>"),
    ("llama3", '{"city": "Köln"}'), ("llama3", "Well, {x}"), ("llama3", LLAMA + "; and"),
    ("llama3", ""), ("llama3", "  {"), ("llama3", '{"name": "f", "parameters": "x"}'),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"x": NaN}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"x": "\\ud83d"}}</tool_call>'),
    ("mistral", "[1, 2]"), ("mistral", "[{}]"), ("mistral", "No."), ("mistral", "[TOOL"),
])
@pytest.mark.parametrize("size", [1, 5, 1000])
def test_what_is_no_call_stays_text_exactly(parser, text, size):
    pieces = [text[i : i + size] for i in range(0, len(text), size)] or [""]
    assert parse(parser, pieces) == (text, [])


def test_a_last_tag_may_be_missing():
    text = HERMES.removesuffix("</tool_call>")
    assert parse("hermes", [text])[1] == CALLS


def test_text_goes_out_before_a_call():
    reader = PARSERS["hermes"]()
    assert reader.push("Let me see. <to", False) == ("Let me see. ", [])
    assert reader.push("morrow", False) == ("<tomorrow", [])


def says(text, size=4):
    async def script(request, send):
        is_stream = any(tensor.name == "stream" for tensor in request.inputs)
        step = size if is_stream else len(text)
        for start in range(0, len(text), step):
            is_last = start + step >= len(text)
            send(chunk(text[start : start + step], finish_reason="stop" if is_last else "",
                       is_final=is_last))
    return script


async def test_the_sdk_gets_calls_and_sends_them_back(gateway):
    async with gateway(says(HERMES), tool_parser="hermes") as (url, server), openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key="none") as client:
        answer = await client.chat.completions.create(
            model="generate", messages=QUESTION, tools=[WEATHER], tool_choice="auto")
        [choice] = answer.choices
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content == "Let me see.\n"
        assert [(call.function.name, call.function.arguments)
                for call in choice.message.tool_calls] == CALLS
        assert json.loads(tensors(server.requests[0])["messages"][0][0]) == {
            "messages": QUESTION, "tools": [WEATHER]}
        call_id = choice.message.tool_calls[0].id
        result = {"role": "tool", "content": "Rain.", "tool_call_id": call_id}
        await client.chat.completions.create(
            model="generate", messages=[*QUESTION, choice.message, result], tools=[WEATHER])
        sent = json.loads(tensors(server.requests[1])["messages"][0][0])["messages"]
        assert sent[1]["tool_calls"][0]["function"] == {
            "name": "weather", "arguments": {"city": "Köln"}}
        assert sent[2] == result


async def test_the_sdk_gets_calls_in_a_stream(gateway):
    async with gateway(says(HERMES), tool_parser="hermes") as (url, _), openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key="none") as client:
        async with client.chat.completions.stream(
                model="generate", messages=QUESTION, tools=[WEATHER]) as stream:
            answer = await stream.get_final_completion()
        [choice] = answer.choices
        assert choice.finish_reason == "tool_calls"
        assert [(call.function.name, call.function.arguments)
                for call in choice.message.tool_calls] == CALLS
        assert len({call.id for call in choice.message.tool_calls}) == 2


class City(BaseModel):
    city: str


@pytest.mark.filterwarnings("ignore:Pydantic serializer")  # the SDK's own, of what it parsed
@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(("text", "form"), [
    ('{"city": "Köln"}', {"response_format": City}),
    ('<tool_call>{"name": "City", "arguments": {"city": "Köln"}}</tool_call>',
     {"tools": [openai.pydantic_function_tool(City)], "tool_choice": "required"})])
async def test_what_the_sdk_has_parsed_can_be_sent_back(gateway, text, form, is_stream):
    ask = {"model": "generate", "messages": QUESTION, **form}
    async with gateway(says(text), tool_parser="hermes") as (url, server), openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key="none") as client:
        if is_stream:
            async with client.chat.completions.stream(**ask) as stream:
                answer = await stream.get_final_completion()
        else:
            answer = await client.chat.completions.parse(**ask)
        message = answer.choices[0].message
        parsed = (message.tool_calls[0].function.parsed_arguments if message.tool_calls
                  else message.parsed)
        assert parsed == City(city="Köln")
        await client.chat.completions.create(model="generate", messages=[*QUESTION, message])
    sent = json.loads(tensors(server.requests[1])["messages"][0][0])[1]
    assert "Köln" in json.dumps(sent, ensure_ascii=False)
    assert "parsed" not in json.dumps(sent)


async def test_without_a_call_an_answer_is_as_ever(gateway):
    async with gateway(says("It rains."), tool_parser="llama3") as (url, server), (
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none")) as client:
        for choice in ("auto", "none"):
            answer = await client.chat.completions.create(
                model="generate", messages=QUESTION, tools=[WEATHER], tool_choice=choice)
            assert answer.choices[0].message.content == "It rains."
            assert answer.choices[0].finish_reason == "stop"
        assert json.loads(tensors(server.requests[1])["messages"][0][0]) == QUESTION


@pytest.mark.parametrize(("fields", "param"), [
    ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "time"}}},
     "tool_choice"),
    ({"tools": [WEATHER], "tool_choice": "any"}, "tool_choice"),
    ({"tools": [WEATHER], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.type"),
    ({"tool_choice": "auto"}, "tool_choice"), ({"tool_choice": "required"}, "tool_choice"),
    ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}],
      "tool_choice": "required"}, "tools"),
    ({"tools": [WEATHER], "response_format": {"type": "json_object"}}, "response_format"),
    ({"response_format": {"type": "json_schema"}}, "response_format"),
    ({"response_format": {"type": "text", "json_schema": {"name": "x"}}}, "response_format"),
    ({"response_format": {"type": "json_object"}, "extra_body": {"guided_json": {}}},
     "guided_json"),
    ({"tools": [WEATHER], "parallel_tool_calls": False}, "parallel_tool_calls"),
    ({"tools": [{"type": "custom"}]}, "tools[0].type"), ({"tools": [WEATHER, WEATHER]}, "tools"),
    ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools"),
    ({"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]}, "tools"),
])
async def test_what_an_answer_cannot_be_held_to_is_refused(gateway, fields, param):
    async with gateway(says("x"), tool_parser="hermes") as (url, server), openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.BadRequestError) as refusal:
            await client.chat.completions.create(model="generate", messages=QUESTION, **fields)
        assert refusal.value.param == param
        assert server.requests == []


async def test_without_a_parser_tools_are_refused(gateway):
    async with gateway(says("x")) as (url, _), openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.BadRequestError, match="--tool-parser"):
            await client.chat.completions.create(model="generate", messages=QUESTION,
                                                 tools=[WEATHER])


async def test_nothing_is_stored_as_a_chat_may_say(gateway):
    async with gateway(says("It rains.")) as (url, _), openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        ask = {"model": "generate", "messages": QUESTION}
        answer = await client.chat.completions.create(**ask, store=False)
        assert answer.choices[0].message.content == "It rains."
        with pytest.raises(openai.BadRequestError) as refusal:
            await client.chat.completions.create(**ask, store=True)
        assert refusal.value.param == "store"
