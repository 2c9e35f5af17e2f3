"""Answers that have to call functions: what a grammar allows, the parser of its format reads."""

import json
from functools import partial

import jsonschema
import numpy as np
import openai
import pytest
from llguidance import LLMatcher, LLTokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from tests.fakes.triton_service import chunk, tensors
from tests.small_tokenizers import build_tokenizer

from tritonlm.gateway.openai.tool_grammar import tool_grammar
from tritonlm.gateway.openai.tool_parsers import PARSERS

WEATHER = {
    "$defs": {"city": {"type": "string", "maxLength": 4}}, "additionalProperties": False,
    "type": "object", "required": ["city"],
    "properties": {"city": {"$ref": "#/$defs/city"}, "days": {"type": "integer", "maximum": 9}}}
FUNCTIONS = {'we"tter': WEATHER, "time": None}
TOOLS = [{"type": "function", "function": {"name": name} | ({"parameters": schema} if schema
                                                            else {})}
         for name, schema in FUNCTIONS.items()]
END = 2


@pytest.fixture(scope="module")
def tokenizer():
    return LLTokenizer(build_tokenizer("byte_level").to_str(), eos_token=[END])


def random_answer(tokenizer, grammar, seed):
    """A text that a grammar allows, each token drawn from all that it allows."""
    matcher, size = LLMatcher(tokenizer, grammar), tokenizer.vocab_size
    assert not matcher.get_error()
    random, masks, ids = np.random.default_rng(seed), allocate_token_bitmask(1, size), []
    while True:
        fill_next_token_bitmask(matcher, masks)
        allowed = np.flatnonzero(np.unpackbits(masks.view(np.uint8), bitorder="little"))
        token_id = int(random.choice(allowed))
        if token_id == END:
            return tokenizer.decode_str(ids)
        ids.append(token_id)
        matcher.consume_token(token_id)


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("is_parallel", [False, True])
def test_the_parser_of_the_format_reads_calls_that_satisfy_their_schemas(
    tokenizer, parser, is_parallel,
):
    grammar = tool_grammar(parser, FUNCTIONS, is_parallel)
    called = []
    for seed in range(25):
        text = random_answer(tokenizer, grammar, seed)
        said, calls = PARSERS[parser]().push(text, is_last=True)
        assert said == ""
        assert len(calls) == 1 or is_parallel
        for call in calls:
            schema = FUNCTIONS[call.name] or {"type": "object", "maxProperties": 0}
            jsonschema.validate(json.loads(call.arguments), schema)
        called += [call.name for call in calls]
    assert set(called) == FUNCTIONS.keys()


@pytest.mark.parametrize(("parser", "text"), [
    ("hermes", '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>\n'
               '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>'),
    ("llama3", '{"name": "time", "parameters": {}}; {"name": "time", "parameters": {}}'),
    ("mistral", '[{"name": "time", "arguments": {}}, {"name": "time", "arguments": {}}]'),
])
def test_several_calls_are_written_as_models_write_them(tokenizer, parser, text):
    for is_parallel in (True, False):
        matcher = LLMatcher(tokenizer, tool_grammar(parser, FUNCTIONS, is_parallel))
        ids = [int(token_id) for token_id in tokenizer.greedy_tokenize(text)]
        is_taken = matcher.validate_tokens(ids) == len(ids)
        assert is_taken == is_parallel
    assert len(PARSERS[parser]().push(text, is_last=True)[1]) == 2


@pytest.mark.parametrize(("choice", "is_parallel", "functions", "may_repeat"), [
    ("required", True, FUNCTIONS, True), ("required", False, FUNCTIONS, False),
    ({"type": "function", "function": {"name": "time"}}, True, {"time": None}, False),
])
async def test_who_has_to_call_is_held_to_the_functions(
    gateway, choice, is_parallel, functions, may_repeat,
):
    async def script(request, send):
        send(chunk('{"name": "time", "parameters": {}}', finish_reason="stop", is_final=True))

    async with gateway(script, tool_parser="llama3") as (url, server), openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        ask = partial(client.chat.completions.create, model="generate",
                      messages=[{"role": "user", "content": "When?"}], tools=TOOLS,
                      tool_choice=choice, parallel_tool_calls=is_parallel)
        answer = await ask()
    [call] = answer.choices[0].message.tool_calls
    assert (call.function.name, call.function.arguments) == ("time", "{}")
    assert answer.choices[0].finish_reason == "tool_calls"
    [[grammar]] = tensors(server.requests[0])["guided_grammar"]
    schemas = {name: schema and {"type": "object"} | schema for name, schema in functions.items()}
    assert grammar.decode() == tool_grammar("llama3", schemas, may_repeat)


@pytest.mark.parametrize(("response_format", "schema"), [
    ({"type": "json_object"}, {"type": "object"}),
    ({"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": WEATHER}},
     WEATHER),
    ({"type": "text"}, None),
])
async def test_a_format_is_a_schema_for_the_server(gateway, response_format, schema):
    async def script(request, send):
        send(chunk("{}", finish_reason="stop", is_final=True))

    async with gateway(script) as (url, server), openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        await client.chat.completions.create(
            model="generate", messages=[{"role": "user", "content": "Hi"}],
            response_format=response_format)
    sent = tensors(server.requests[0]).get("guided_json")
    assert sent is None if schema is None else json.loads(sent[0][0]) == schema
