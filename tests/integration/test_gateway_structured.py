"""Answers that OpenAI's own SDK has held to a form: schemas, choices, calls of tools."""

from __future__ import annotations

import json
from typing import Literal

import openai
import pytest
from pydantic import BaseModel, Field
from transformers import AutoTokenizer

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
def tokenizer():
    return AutoTokenizer.from_pretrained(DEMO_CHECKPOINT)


@pytest.mark.parametrize("seed", range(4))
def test_a_chat_is_parsed_into_a_pydantic_model(demo_sdk, seed):
    answer = demo_sdk.chat.completions.parse(
        model=MODEL, messages=CHAT, temperature=1, seed=seed, response_format=Person)
    [choice] = answer.choices
    assert choice.finish_reason == "stop"
    assert isinstance(choice.message.parsed, Person)
    with demo_sdk.chat.completions.stream(model=MODEL, messages=CHAT, temperature=1, seed=seed,
                                          response_format=Person) as stream:
        streamed = stream.get_final_completion()
    assert streamed.choices[0].message.parsed == choice.message.parsed


@pytest.mark.parametrize("choice", ["required", {"type": "function",
                                                 "function": {"name": "Person"}}])
def test_who_has_to_call_a_tool_does(demo_sdk, choice):
    ask = {"model": MODEL, "messages": CHAT, "max_tokens": 400, "seed": 3, "tool_choice": choice,
           "parallel_tool_calls": False, "tools": [openai.pydantic_function_tool(Person)]}
    answer = demo_sdk.chat.completions.parse(**ask)
    assert answer.choices[0].finish_reason == "tool_calls"
    [call] = answer.choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, Person)
    with demo_sdk.chat.completions.stream(**ask) as stream:
        [streamed] = stream.get_final_completion().choices[0].message.tool_calls
    assert streamed.function.parsed_arguments == call.function.parsed_arguments


def test_any_object_is_an_object(demo_sdk, tokenizer):
    [closing] = tokenizer.encode("}", add_special_tokens=False)
    answer = demo_sdk.chat.completions.create(
        model=MODEL, messages=CHAT, response_format={"type": "json_object"},
        logit_bias={closing: 100})
    assert json.loads(answer.choices[0].message.content) == {}


def test_a_completion_is_held_to_a_choice(demo_sdk):
    answer = demo_sdk.completions.create(model=MODEL, prompt=PROMPTS, n=2,
                                         extra_body={"guided_choice": ["aye", "nay"]})
    assert {choice.text for choice in answer.choices} <= {"aye", "nay"}
    assert {choice.finish_reason for choice in answer.choices} == {"stop"}


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_schema_that_cannot_be_held_is_refused(demo_sdk, is_stream):
    schema = {"type": "array", "uniqueItems": True}
    with pytest.raises(openai.BadRequestError, match="uniqueItems") as refusal:
        demo_sdk.chat.completions.create(
            model=MODEL, messages=CHAT, stream=is_stream, response_format={
                "type": "json_schema", "json_schema": {"name": "set", "schema": schema}})
    assert refusal.value.param == "response_format"


def test_a_response_is_what_a_chat_of_it_says(demo_sdk):
    given = {"model": MODEL, "temperature": 0}
    chat = demo_sdk.chat.completions.create(messages=CHAT, max_tokens=9, **given)
    response = demo_sdk.responses.create(instructions=CHAT[0]["content"], max_output_tokens=9,
                                         input=CHAT[1]["content"], **given)
    assert response.output_text == chat.choices[0].message.content
    assert response.usage.input_tokens == chat.usage.prompt_tokens
    assert response.usage.output_tokens == chat.usage.completion_tokens
    parsed = demo_sdk.responses.parse(model=MODEL, input="Who?", text_format=Person)
    assert isinstance(parsed.output_parsed, Person)
