import pickle

import grpc
import pytest

from tritonlm.errors import (
    EngineFailure,
    InvalidArgument,
    NotFound,
    ServingError,
    Unavailable,
    from_code,
)
from tritonlm_client.errors import DeadlineExceeded, from_message, from_rpc

ERRORS = [InvalidArgument("max_tokens", 0, "allowed: 1"), NotFound("no request x"),
          Unavailable("the queue\nis full"), EngineFailure("a bug: it broke")]


@pytest.mark.parametrize("wrapper", ["", "in ensemble 'a', ", "in ensemble 'a', in ensemble 'b', "])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.code)
def test_what_a_model_answers_is_raised_as_the_same_error(error, wrapper):
    raised = from_message(wrapper + error.coded_message)
    assert (type(raised), raised.message) == (type(error), error.message)


def test_the_refused_field_can_be_read_from_an_answer():
    raised = from_message(InvalidArgument("top_p", 2, "allowed: at most 1").coded_message)
    assert isinstance(raised, InvalidArgument)
    assert raised.field == "top_p"


@pytest.mark.parametrize(("text", "retry_after_s"), [
    ("UNAVAILABLE: 8 requests wait, the most that is allowed; retry in 12 s", 12),
    ("UNAVAILABLE: the engine was lost; retry", None),
])
def test_when_to_retry_can_be_read_from_an_answer(text, retry_after_s):
    raised = from_message(text)
    assert isinstance(raised, Unavailable)
    assert raised.retry_after_s == retry_after_s


@pytest.mark.parametrize(("text", "error_class"), [
    ("Request for unknown model: 'x' is not found", NotFound),
    ("Request for unknown model: 'x' version 1 is not at ready state", Unavailable),
    ("Stub process 'generate_0' is not healthy.", Unavailable),
    ("unexpected inference input 'input_ids' for model 'text_generation'", InvalidArgument),
    ("[request id: a] unexpected shape for input 'seed' for model 'generate'", InvalidArgument),
    ("no such text of a server", ServingError),
    ("ELSEWHERE: no code of ours", ServingError),
])
def test_what_triton_itself_answers_keeps_its_words(text, error_class):
    raised = from_message(text)
    assert type(raised) is error_class
    assert raised.message == text


class Lost(grpc.RpcError):
    def __init__(self, code, details):
        self._code, self._details = code, details

    def code(self):
        return self._code

    def details(self):
        return self._details


@pytest.mark.parametrize(("code", "details", "expected"), [
    (grpc.StatusCode.UNAVAILABLE, "failed to connect", Unavailable("a:1: failed to connect")),
    (grpc.StatusCode.DEADLINE_EXCEEDED, "late", DeadlineExceeded("a:1: late")),
    (grpc.StatusCode.UNKNOWN, None, ServingError("a:1: None")),
    (grpc.StatusCode.INTERNAL, InvalidArgument("top_p", 2, "at most 1").coded_message,
     InvalidArgument("top_p", 2, "at most 1")),
])
def test_a_call_that_failed_names_the_server_or_is_what_the_model_answered(
        code, details, expected):
    raised = from_rpc("a:1", Lost(code, details))
    assert (type(raised), raised.message) == (type(expected), expected.message)


@pytest.mark.parametrize("error", [
    InvalidArgument("top_p", 2.0, "allowed: 0 to 1"), NotFound("no model"), Unavailable("full"),
    DeadlineExceeded("late")])
def test_an_error_comes_back_whole_from_another_process(error):
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.message) == (type(error), error.message)


def test_the_server_s_own_words_name_no_field():
    told = "unexpected inference input 'a' for model 'b'"
    assert from_message(told).field == ""
    assert from_code("INVALID_ARG", f"localhost:8001: {told}").field == ""
    assert from_message("INVALID_ARG: prompt 2: 'x' is not allowed; allowed: y").field == "prompt 2"
