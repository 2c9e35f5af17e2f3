import pytest

from tritonlm.errors import EngineFailure, InvalidArgument, NotFound, ServingError, Unavailable
from tritonlm_client.errors import from_message

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
