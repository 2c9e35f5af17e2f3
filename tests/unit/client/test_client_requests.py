import json

import numpy as np
import pytest
from triton_service import tensors

from tritonlm.contract import ANSWER, MODELS
from tritonlm.errors import InvalidArgument
from tritonlm_client.requests import cancel_request, text_request

MESSAGES = [{"role": "user", "content": "Grüß dich 👋"}]


def request(prompt="Hi", is_stream=False, **options):
    return text_request("generate", prompt, options, is_stream).as_protobuf()


@pytest.mark.parametrize("text", ["Hi", "naïve 👋🏽", "a\0b\n", "x" * 100_000])
def test_a_text_arrives_as_it_is(text):
    assert tensors(request(text))["text_input"] == [[text.encode()]]


@pytest.mark.parametrize("messages", [MESSAGES, tuple(MESSAGES)])
def test_messages_arrive_as_json(messages):
    [[text]] = tensors(request(messages))["messages"]
    assert json.loads(text) == MESSAGES


@pytest.mark.parametrize("ids", [
    [5, 0, 2**31 - 1], (5, 0, 2**31 - 1), np.array([5, 0, 2**31 - 1]),
    np.array([5, 0, 2**31 - 1], np.uint32), range(3),
])
def test_ids_arrive_with_a_batch_dimension(ids):
    assert tensors(request(ids))["input_ids"] == [list(ids)]


def test_options_arrive_in_the_types_of_the_contract():
    sent = request(max_tokens=np.int64(7), temperature=0, seed=2**64 - 1, ignore_eos=True,
                   stop=["\n", "é"], stop_token_ids=np.array([1, 2]))
    assert tensors(sent) == {
        "text_input": [[b"Hi"]], "max_tokens": [[7]], "temperature": [[0.0]],
        "seed": [[2**64 - 1]], "ignore_eos": [[True]], "stop": [[b"\n", "é".encode()]],
        "stop_token_ids": [[1, 2]],
    }
    inputs = {tensor.name: tensor for tensor in MODELS["generate"].inputs}
    assert all(tensor.datatype == inputs[tensor.name].dtype for tensor in sent.inputs)


def test_a_bias_arrives_as_json_and_logprobs_under_the_name_of_their_tensor():
    sent = tensors(request(logit_bias={5: -100, "7": 0.5}, logprobs=3, n=2, bad_words=["x"]))
    [[bias]] = sent.pop("logit_bias")
    assert json.loads(bias) == {"5": -100, "7": 0.5}
    assert sent == {"text_input": [[b"Hi"]], "num_logprobs": [[3]], "n": [[2]],
                    "bad_words": [[b"x"]]}


def test_an_alias_arrives_under_the_name_of_the_option():
    assert tensors(request(stop_words=["x"]))["stop"] == [[b"x"]]


@pytest.mark.parametrize("options", [{"max_tokens": None}, {"stop": []}, {"stop": [""]}])
def test_none_and_nothing_are_as_not_given(options):
    assert tensors(request(**options)) == tensors(request())


def test_an_explicit_default_is_sent():
    assert tensors(request(temperature=1.0))["temperature"] == [[1.0]]


def test_every_output_of_the_answer_is_asked_for_by_name():
    assert [output.name for output in request().outputs] == [tensor.name for tensor in ANSWER]


def test_an_empty_final_response_is_asked_for():
    assert request().parameters["triton_enable_empty_final_response"].bool_param


def test_only_a_stream_asks_for_one():
    assert "stream" not in tensors(request())
    assert tensors(request(is_stream=True))["stream"] == [[True]]


def test_an_id_is_made_for_a_request_without_one():
    ids = {request().id, request().id, request(request_id="").id}
    assert len(ids - {""}) == 3


def test_a_given_id_is_the_id_of_the_request():
    assert request(request_id="mine").id == "mine"


@pytest.mark.parametrize(("prompt", "field"), [
    ("", "text_input"), ("\ud800", "text_input"), ([], "prompt"), (np.zeros((2, 2), int), "prompt"),
    ([1, "a"], "prompt"), ([[1], [2, 3]], "prompt"), ([1.5], "prompt"), ([True], "prompt"),
    (b"Hi", "prompt"), (None, "prompt"), ([-1], "input_ids"), ([2**31], "input_ids"),
    ([{"role": "user"}], "messages"), ([{"role": "user", "content": {1}}], "messages"),
    ([{"role": "user", "content": "Hi"}, 1], "messages"),
    ([{"role": "user", "content": float("nan")}], "messages"),
])
def test_a_bad_prompt_is_refused_by_name(prompt, field):
    with pytest.raises(InvalidArgument) as caught:
        request(prompt)
    assert caught.value.field == field


@pytest.mark.parametrize(("name", "value"), [
    ("max_token", 5), ("id", "mine"), ("stream", True), ("cancel", True), ("max_tokens", 0),
    ("max_tokens", "many"), ("sampling_parameters", "{}"), ("temperature", float("nan")),
    ("stop", ["\ud800"]), ("seed", -1), ("request_id", "x" * 257), ("request_id", "\ud800"),
    ("triton_enable_empty_final_response", True),
])
def test_a_bad_option_is_refused_by_name(name, value):
    with pytest.raises(InvalidArgument) as caught:
        request(**{name: value})
    assert caught.value.field == name


def test_a_request_is_cancelled_by_its_id():
    sent = cancel_request("generate", "mine").as_protobuf()
    assert tensors(sent) == {"request_id": [[b"mine"]], "cancel": [[True]]}
    assert sent.id != "mine"


def test_a_cancel_needs_an_id():
    with pytest.raises(InvalidArgument, match="request_id"):
        cancel_request("generate", "")


@pytest.mark.parametrize(("model", "cancelled_at"), [
    ("generate", "generate"), ("text_generation", "generate"), ("other", "other"),
])
def test_a_request_to_the_ensemble_is_cancelled_inside_it(model, cancelled_at):
    assert cancel_request(model, "mine").model == cancelled_at
