"""Over HTTP the client says what it says over gRPC."""


import pytest
from tests.unit.client.calls import Async, Sync

from tritonlm_client import Completion, DeadlineExceeded, InvalidArgument

PROMPTS = {"text_input": "ROMEO:\nO, ",
           "messages": [{"role": "user", "content": "Who goes there?"}],
           "input_ids": [10, 200, 31, 7]}
LONG = {"max_tokens": 800, "ignore_eos": True}


@pytest.fixture(params=[Sync, Async])
def api(request):
    return request.param()


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
@pytest.mark.parametrize("options", [
    {}, {"n": 2, "seed": 5, "temperature": 1.0, "logprobs": 2, "prompt_logprobs": 0},
    {"logit_bias": {5: -100}, "stop": [".", "!"], "stop_token_ids": [7], "bad_words": ["king"]},
])
def test_over_http_an_answer_is_the_same(api, url, http_url, prompt, options):
    options = {"max_tokens": 12, "temperature": 0, "request_id": "mine", **options}
    assert api.call(http_url, "generate", prompt, **options) == api.call(
        url, "generate", prompt, **options)
    streamed, reference = (Completion.join("", api.stream(each, prompt, **options))
                           for each in (http_url, url))
    assert streamed == reference


def test_over_http_models_are_the_same(api, url, http_url):
    told = api.call(http_url, "models")
    assert sorted(told, key=lambda model: model.name) == sorted(
        api.call(url, "models"), key=lambda model: model.name)
    assert api.call(http_url, "is_live")
    assert api.call(http_url, "is_ready")


def test_over_http_errors_are_the_same(api, http_url):
    with pytest.raises(InvalidArgument) as caught:
        api.call(http_url, "generate", "ROMEO:", max_tokens=10**6)
    assert caught.value.field == "max_tokens"
    with pytest.raises(DeadlineExceeded):
        api.call(http_url, "generate", "ROMEO:", timeout_s=0.1, **LONG)
