import json
import re
import sys

import numpy as np
import pytest

from tritonlm.contract import NUMPY_DTYPES, Prompt, parse_options, parse_prompt
from tritonlm.errors import InvalidArgument
from tritonlm.options import ALIASES, OPTIONS, Options

INT32_MAX = 2**31 - 1
UINT64_MAX = 2**64 - 1
POSITIVE = ([1, "16", 16.0, INT32_MAX], [0, -1, 2**31, 10**400, 1.5, "1.5", "1_0", " 1", "٣", "x",
                                         True, None, [1], "9" * 5000])
FLAG = ([True, False, "true", "False"], [1, 0.0, "yes", "", None, [True]])
FLOAT_NOISE = [float("nan"), float("inf"), "nan", "-inf", 10**400, "1e999", "0.5x", "1_0", "", True,
               None, [0.5]]
SHARE = ([0.01, 1, "1.0", "1e-3"], [0, -1, 1.01, *FLOAT_NOISE])
PENALTY = ([-2, 0, "0.5", 2.0], [-2.01, 3, *FLOAT_NOISE])
LOGPROBS = ([0, "5", 20], [-1, 21, 0.5, "x", True, None])
CASES = {
    "max_tokens": POSITIVE,
    "min_tokens": ([0, 1, "16", INT32_MAX], [-1, 2**31, 1.5, "x", True]),
    "ignore_eos": FLAG,
    "stop": (["a", ["a", "b"], [], ["x" * 1024] * 16], [["a"] * 17, "x" * 1025, 5, None, [None]]),
    "stop_token_ids": ([0, ["5", 6], [INT32_MAX], [7] * 16],
                       [-1, [0] * 17, [2**31], "a", [1.5], True, {"a": 1}]),
    "include_stop_str_in_output": FLAG,
    "truncate_prompt_tokens": POSITIVE,
    "temperature": ([0, 1, "0.5", 100.0], [-0.1, 100.5, *FLOAT_NOISE]),
    "top_p": SHARE,
    "top_k": ([-1, 0, 50, "50", INT32_MAX], [-2, 2**31, 0.5, "x", True]),
    "min_p": ([0, 1, "0.25"], [-0.1, 1.1, *FLOAT_NOISE]),
    "typical_p": SHARE,
    "repetition_penalty": ([0.1, 1, "1.5", 100], [0, -1, 100.5, *FLOAT_NOISE]),
    "presence_penalty": PENALTY,
    "frequency_penalty": PENALTY,
    "logit_bias": ([{}, {"5": 1}, {5: -100.0, 0: 100}, '{"5": -0.5}'],
                   [{"5": 101}, {"-1": 1}, {2**31: 1}, "[]", "{", "", 5,
                    [[5, 1]], dict.fromkeys(range(1025), 1)]),
    "bad_words": (["a", ["a", "b"], [], ["x" * 256] * 64], [["a"] * 65, "x" * 257, 5, [None]]),
    "guided_json": ([{"type": "object"}, '{"type": "object"}', {}],
                    ["[]", "{", 5, "5", True, "false", {"enum": ["x" * 131_072]}, {"a": {1}}]),
    "guided_regex": (["a+", ""], ["x" * 131_073, 5]),
    "guided_choice": (["a", ["a", "b"], []], [["a"] * 1025, "x" * 1025, 5, [None]]),
    "guided_grammar": (["start: /a/", ""], ["x" * 131_073, 5]),
    "seed": ([0, str(UINT64_MAX), UINT64_MAX], [-1, 2**64, 0.5, "x", True]),
    "n": ([1, "2", 128], [0, -1, 129, 1.5, "x", True]),
    "stream": FLAG,
    "logprobs": LOGPROBS,
    "prompt_logprobs": LOGPROBS,
    "exclude_input_in_output": FLAG,
    "return_num_input_tokens": FLAG,
    "return_num_output_tokens": FLAG,
    "return_finish_reason": FLAG,
    "return_perf_metrics": FLAG,
    "priority": (["urgent", "high", "normal", "low"], ["", "High", "medium", 5, None]),
    "user": (["", "a" * 256], ["a" * 257, 5, None]),
    "timeout_ms": POSITIVE,
    "request_id": (["", "a" * 256], ["a" * 257, 5, None]),
    "cancel": FLAG,
}


def options_of(parameters=None, tensors=None, **json_options):
    tensors = {name: np.array([values], dtype) for name, (values, dtype) in (tensors or {}).items()}
    if json_options:
        tensors["sampling_parameters"] = np.array([[json.dumps(json_options).encode()]], np.object_)
    return parse_options(tensors, {"request_id": "r1", **(parameters or {})})


def read(name, value):
    """What an allowed value means."""
    if name == "guided_json":
        return value if isinstance(value, str) else json.dumps(value)
    if name in ("stop", "stop_token_ids", "bad_words", "guided_choice"):
        kind = int if name == "stop_token_ids" else str
        return tuple(kind(item) for item in (value if isinstance(value, list) else [value]))
    if name == "logit_bias":
        biases = json.loads(value) if isinstance(value, str) else value
        return tuple((int(token_id), bias) for token_id, bias in biases.items())
    if isinstance(value, str) and name not in (
            "request_id", "user", "priority", "guided_regex", "guided_grammar"):
        return json.loads(value.lower())
    return value


def test_every_option_is_in_the_table():
    assert CASES.keys() == OPTIONS.keys()


@pytest.mark.parametrize(("name", "value"),
                         [(name, value) for name, (good, _) in CASES.items() for value in good])
def test_an_allowed_value_is_taken(name, value):
    assert getattr(options_of({name: value}), name) == read(name, value)


@pytest.mark.parametrize(("name", "value"),
                         [(name, value) for name, (_, bad) in CASES.items() for value in bad])
def test_another_value_is_refused_with_what_is_allowed(name, value):
    with pytest.raises(InvalidArgument) as info:
        options_of({name: value})
    assert info.value.field == name
    assert OPTIONS[name].metadata["allowed"] in info.value.message
    item = value[0] if isinstance(value, list) else value
    assert repr(item)[:40] in info.value.message


@pytest.mark.parametrize(("biases", "item"), [
    ({"a": 1}, "'a'"), ({"1.5": 1}, "'1.5'"), ({"5": "x"}, "'x'"), ({"5": True}, "True"),
    ('{"5": NaN}', "nan"), ({"5": [1]}, "[1]"),
])
def test_a_bias_is_a_number_of_a_token_id(biases, item):
    with pytest.raises(InvalidArgument) as info:
        options_of({"logit_bias": biases})
    assert info.value.message.startswith(f"logit_bias: {item} is not allowed; ")


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_that_is_not_given_has_its_default(name):
    assert getattr(parse_options({}, {}), name) == OPTIONS[name].default


@pytest.mark.parametrize(("name", "values", "expected"), [
    ("max_tokens", [16], 16), ("stop", [b"a", "é".encode()], ("a", "é")), ("stop", [b""], ()),
    ("stop_token_ids", [1, 2], (1, 2)), ("temperature", [0.5], 0.5), ("stream", [True], True),
    ("seed", [UINT64_MAX], UINT64_MAX), ("request_id", [b"r2"], "r2"),
    ("priority", [b"low"], "low"), ("user", ["é".encode()], "é"),
    ("logit_bias", [b'{"7": -1.5}'], ((7, -1.5),)), ("num_logprobs", [3], 3),
])
def test_a_tensor_is_taken(name, values, expected):
    option = ALIASES.get(name, name)
    dtype = NUMPY_DTYPES[OPTIONS[option].metadata["dtype"]]
    parsed = getattr(options_of(tensors={name: (values, dtype)}), option)
    assert parsed == expected
    assert type(parsed) is type(expected)


@pytest.mark.parametrize(("name", "values", "allowed"), [
    ("max_tokens", np.array([[1, 2]]), "exactly one value"),
    ("max_tokens", np.empty((1, 0), np.int32), "exactly one value"),
    ("stop", np.array([[b"a"], [b"b"]], np.object_), "one row"),
    ("top_p", np.array([[np.nan]], np.float32), "finite number"),
    ("stop", np.array([[b"a", b"\xff"]], np.object_), "UTF-8: invalid start byte at byte 0"),
    ("request_id", np.array([[b"a\xff"]], np.object_), "UTF-8: invalid start byte at byte 1"),
])
def test_a_tensor_of_a_wrong_shape_or_content_is_refused(name, values, allowed):
    with pytest.raises(InvalidArgument, match=f"{name}: .*{allowed}"):
        parse_options({name: values}, {})


def test_a_tensor_comes_before_a_parameter_and_that_before_the_json_text():
    tensor = {"max_tokens": ([3], np.int32)}
    assert options_of({"max_tokens": 2}, tensor, max_tokens=1).max_tokens == 3
    assert options_of({"max_tokens": 2}, max_tokens=1).max_tokens == 2
    assert options_of(max_tokens=1).max_tokens == 1


def test_the_json_text_may_be_a_parameter():
    assert options_of({"sampling_parameters": '{"top_k": 3}'}).top_k == 3


def test_an_alias_stands_for_its_option_across_sources():
    assert options_of({"stop_words": "a"}).stop == ("a",)
    assert options_of({"stop": "b"}, {"stop_words": ([b"a"], np.object_)}).stop == ("a",)


@pytest.mark.parametrize("names", [("stop", "stop_words"), ("stop_words", "stop")])
def test_an_option_and_its_alias_in_one_source_are_refused(names):
    with pytest.raises(InvalidArgument, match=f"'b' .*{names[0]} and {names[1]} are one option"):
        options_of({names[0]: "a", names[1]: "b"})


@pytest.mark.parametrize("source", ["parameter", "json"])
def test_an_unknown_name_is_refused_with_the_known_ones(source):
    with pytest.raises(InvalidArgument, match=r"top_q: 0.5 .*known: .*stop_words") as info:
        options_of({"top_q": 0.5}) if source == "parameter" else options_of(top_q=0.5)
    assert all(name in info.value.message for name in OPTIONS)


@pytest.mark.parametrize("text", ["[1]", "3", "null", "{", "", "[" * 100_000,
                                  '{"top_k": ' + "9" * 5000 + "}"])
def test_sampling_parameters_must_be_a_json_object(text):
    with pytest.raises(InvalidArgument, match=r"sampling_parameters: .*it must be a JSON object"):
        options_of({"sampling_parameters": text})


def test_parameters_that_triton_adds_are_not_options():
    added = {"id": "x", "triton_enable_empty_final_response": True}
    assert options_of(added) == Options(request_id="r1")


def test_tritons_id_stands_in_for_the_request_id():
    assert parse_options({}, {}, "triton").request_id == "triton"
    assert parse_options({}, {"request_id": "own"}, "triton").request_id == "own"


def test_a_cancel_needs_an_id():
    assert options_of({"cancel": True}).cancel
    with pytest.raises(InvalidArgument, match=r"request_id: '' .*cancel needs the id"):
        parse_options({}, {"cancel": True})


def test_the_ids_of_several_sequences_can_be_told_apart():
    without = {"n": 2, "return_num_output_tokens": False}
    with pytest.raises(InvalidArgument, match=r"return_num_output_tokens: False .*tells apart"):
        options_of(without)
    assert options_of({**without, "stream": True}).n == 2


def test_a_cancel_is_seen_in_every_source():
    json_text = np.array([[b'{"cancel": true}']], np.object_)
    assert parse_options({"cancel": np.array([[True]])}, {}, "r1").cancel
    assert parse_options({}, {"cancel": "true", "max_tokens": 5}, "r1").cancel
    assert parse_options({"sampling_parameters": json_text}, {}, "r1").cancel
    assert not parse_options({}, {"max_tokens": 5}, "r1").cancel


def prompt_of(**prompts):
    return parse_prompt({
        name: np.array([[value]], np.object_) if isinstance(value, bytes) else value
        for name, value in prompts.items()})


def test_a_prompt_is_a_text_messages_or_ids():
    assert prompt_of(text_input="é\0".encode()) == Prompt(text="é\0")
    assert prompt_of(messages=b'[{"role": "user", "content": "Hi"}]') == Prompt(
        messages=({"role": "user", "content": "Hi"},))
    ids = prompt_of(input_ids=np.array([[1, 2]], np.int32)).ids
    assert ids.dtype == np.int32
    assert ids.tolist() == [1, 2]


@pytest.mark.parametrize(("prompts", "value"), [
    ({}, "nothing"), ({"text_input": b"a", "messages": b"[]"}, "text_input and messages"),
])
def test_a_request_has_exactly_one_prompt(prompts, value):
    with pytest.raises(InvalidArgument, match=f"prompt: '{value}' .*exactly one of text_input"):
        prompt_of(**prompts)


@pytest.mark.parametrize(("prompts", "message"), [
    ({"text_input": b""}, "text_input: '' is not allowed; it must not be empty"),
    ({"text_input": b"a\xff"}, "text_input: b'a\\xff' .*UTF-8: invalid start byte at byte 1"),
    ({"text_input": np.array([[b"a"], [b"b"]], np.object_)}, "text_input: [2, 1] .*shape [1, 1]"),
    ({"input_ids": np.empty((1, 0), np.int32)}, "input_ids: [] .*must not be empty"),
    ({"input_ids": np.ones((2, 3), np.int32)}, "input_ids: [2, 3] .*shape [1, n]"),
    ({"messages": b""}, "messages: '' .*must not be empty"),
])
def test_a_bad_prompt_is_refused(prompts, message):
    pattern = ".*".join(re.escape(part) for part in message.split(".*"))
    with pytest.raises(InvalidArgument, match=pattern):
        prompt_of(**prompts)


def test_messages_may_come_with_tools():
    text = b'{"messages": [{"role": "user", "content": "Hi"}], "tools": [{"name": "f"}]}'
    assert prompt_of(messages=text) == Prompt(
        messages=({"role": "user", "content": "Hi"},), tools=({"name": "f"},))


@pytest.mark.parametrize("text", ["{", "[]", "{}", '["Hi"]', '{"messages": []}',
                                  '{"messages": [{"role": "a", "content": ""}], "tools": [1]}',
                                  '{"messages": [{"role": "a", "content": ""}], "other": []}',
                                  '[{"role": "user"}]', "[" * 100_000,
                                  '[{"content": "Hi"}]', '[{"role": 5, "content": "Hi"}]'])
def test_messages_must_be_a_list_of_roles_and_contents(text):
    with pytest.raises(InvalidArgument, match=r"messages: .*JSON list of objects such as"):
        prompt_of(messages=text.encode())


@pytest.mark.parametrize("name", ["user", "guided_regex"])
def test_half_a_character_is_no_text(name):
    with pytest.raises(InvalidArgument, match=f"{name}: .*UTF-8: surrogates not allowed at "
                                              "character 1"):
        options_of(**{name: "a\ud800"})


def test_what_is_too_deep_to_be_shown_is_called_so():
    deep = []
    for _ in range(sys.getrecursionlimit()):
        deep = [deep]
    assert str(InvalidArgument("stop", deep, "allowed: texts")).startswith("stop: a deep list")


def test_an_error_does_not_repeat_a_megabyte():
    with pytest.raises(InvalidArgument) as info:
        options_of({"max_tokens": "x" * 1_000_000})
    assert len(info.value.message) < 300


def test_an_answer_is_held_to_one_grammar():
    with pytest.raises(InvalidArgument, match=r"guided_json and guided_regex are given"):
        options_of({"guided_json": {}, "guided_regex": "a"})


def test_a_held_answer_ends_with_its_grammar():
    with pytest.raises(InvalidArgument, match=r"^ignore_eos: True .* guided_choice"):
        options_of({"guided_choice": ["a"], "ignore_eos": True})
