import json
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import triton_python_backend_utils as pb_utils
from tests.small_tokenizers import build_tokenizer
from transformers import PreTrainedTokenizerFast

from tritonlm.backend.detokenize import Detokenize
from tritonlm.backend.generate import Generate
from tritonlm.backend.tokenize import Tokenize

TOKENIZER = build_tokenizer("byte_level")


@pytest.fixture(scope="module")
def args(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    PreTrainedTokenizerFast(tokenizer_object=TOKENIZER, chat_template="{{ messages[0].content }}",
                            ).save_pretrained(folder)
    return arguments(folder)


def arguments(folder):
    parameters = {"model": {"string_value": str(folder)}}
    return {"model_config": json.dumps({"parameters": parameters}),
            "model_name": "it", "model_instance_name": "it_0"}


def start(model, args):
    model.initialize(args)
    return model


@pytest.fixture(scope="module")
def tokenize(args):
    return start(Tokenize(), args)


@pytest.fixture(scope="module")
def detokenize(args):
    return start(Detokenize(), args)


def prompt(parameters=None, **texts):
    tensors = {name: np.array([[text.encode()]], np.object_) for name, text in texts.items()}
    return pb_utils.InferenceRequest(tensors, parameters, ["input_ids"])


def chunk(ids, span, num_ids=None):
    tensors = {"detokenize_ids": np.array([ids], np.int32),
               "detokenize_span": np.array([span], np.int32)}
    if num_ids is not None:
        tensors["detokenize_num_ids"] = np.array([num_ids], np.int32)
    return pb_utils.InferenceRequest(tensors, outputs=["text_output"])


def value(response):
    assert not response.has_error(), response.error().message()
    [tensor] = response.output_tensors()
    return tensor.as_numpy()


@pytest.mark.parametrize("model", [Tokenize, Detokenize])
def test_a_checkpoint_without_a_tokenizer_fails_the_load_with_the_reason(tmp_path, model):
    with pytest.raises(pb_utils.TritonModelException, match=r"model: .*must have a tokenizer"):
        model().initialize(arguments(tmp_path))


def test_each_request_of_a_batch_gets_its_own_ids_or_error(tokenize):
    responses = tokenize.execute([
        prompt(text_input="The cat"), prompt(), prompt(messages="x"),
        prompt(messages='[{"role": "user", "content": "sat"}]'), prompt(text_input="on the mat"),
    ])
    for i, text in ((0, "The cat"), (4, "on the mat")):
        assert value(responses[i]).tolist() == [TOKENIZER.encode(text).ids]
    assert value(responses[3]).tolist() == [TOKENIZER.encode("sat", add_special_tokens=False).ids]
    assert "prompt: 'nothing'" in responses[1].error().message()
    assert "messages: 'x'" in responses[2].error().message()


def test_what_is_refused_is_counted_since_no_front_end_will(args):
    pb_utils.MetricFamily.families.clear()
    start(Tokenize(), args).execute([prompt(text_input="The"), prompt(), prompt(messages="x")])
    [metric, other] = pb_utils.MetricFamily.families["tritonlm_requests_total"].metrics
    assert metric.labels == {"model": "it", "front_end": "it_0", "outcome": "refused",
                             "reason": "invalid_arg"}
    assert (metric.value, other.value) == (2, 0)


def test_ids_are_of_shape_1_n_and_int32(tokenize):
    ids = value(tokenize.execute([prompt(text_input="The cat")])[0])
    assert ids.shape == (1, len(TOKENIZER.encode("The cat").ids))
    assert ids.dtype == np.int32


def test_options_of_the_next_step_are_checked_already(tokenize):
    good, bad, unknown = tokenize.execute([
        prompt({"max_tokens": "16", "id": "7"}, text_input="The"),
        prompt({"max_tokens": 0}, text_input="The"), prompt({"max": 1}, text_input="The")])
    assert value(good).size > 0
    assert "max_tokens: 0 is not allowed" in bad.error().message()
    assert "max: 1 is not allowed; unknown" in unknown.error().message()


@pytest.mark.parametrize("request_", [
    prompt({"cancel": True, "request_id": "a"}),
    prompt(sampling_parameters='{"cancel": true, "request_id": "a"}'),
    pb_utils.InferenceRequest({"cancel": np.array([[True]])}, None, ["input_ids"], "a"),
])
def test_a_cancel_needs_no_prompt(tokenize, request_):
    assert value(tokenize.execute([request_])[0]).shape == (1, 1)


def test_a_bug_fails_the_batch_without_telling_its_secrets(tokenize, monkeypatch, caplog):
    def broken(prompts):
        raise RuntimeError("secret")

    monkeypatch.setattr(tokenize._encoder, "encode_batch", broken)
    responses = tokenize.execute([prompt(text_input="a"), prompt(text_input="b")])
    assert ["internal error" in response.error().message() for response in responses] == [True] * 2
    assert "secret" in caplog.text


def test_a_chunk_is_its_span_of_the_windows_text(detokenize):
    ids = TOKENIZER.encode("The cat sat").ids
    responses = detokenize.execute([chunk(ids, (4, 7)), chunk([], (0, 0))])
    assert [value(response).tolist() for response in responses] == [[[b"cat"]], [[b""]]]


def test_several_texts_are_decoded_apart(detokenize):
    the, cat = (TOKENIZER.encode(text, add_special_tokens=False).ids for text in ("The", "cat"))
    [response] = detokenize.execute(
        [chunk(the + cat, (0, 3, 0, 0, 1, 3), (len(the), 0, len(cat)))])
    assert value(response).tolist() == [[b"The", b"", b"at"]]


@pytest.mark.parametrize(("span", "num_ids", "message"), [
    ((0, 1), (2,), "detokenize_num_ids: [2] is not allowed; allowed: 0 and more, 1 in all"),
    ((0, 1, 0, 0), (2, -1), "detokenize_num_ids: [2, -1] "),
    ((0, 1, 0), (1,), "detokenize_span: [0, 1, 0] is not allowed; two values for each text"),
])
def test_texts_that_do_not_fit_their_ids_are_refused(detokenize, span, num_ids, message):
    [response] = detokenize.execute([chunk([5], span, num_ids)])
    assert message in response.error().message()


@pytest.mark.parametrize(("ids", "span", "message"), [
    ([-1], (0, 0), "detokenize_ids: -1 "), ([5], (-1, 0), "detokenize_span: [-1, 0] "),
    ([5], (1, 0), "detokenize_span: [1, 0] "), ([5], (0, 99), "detokenize_span: [0, 99] "),
])
def test_ids_and_spans_out_of_range_are_refused(detokenize, caplog, ids, span, message):
    with caplog.at_level(logging.ERROR):
        [response, other] = detokenize.execute([chunk(ids, span), chunk([], (0, 0))])
    assert message in response.error().message()
    assert not caplog.text
    assert value(other).tolist() == [[b""]]


def test_without_a_span_the_whole_text_is_meant(detokenize):
    ids = TOKENIZER.encode("The cat sat", add_special_tokens=False).ids
    request = pb_utils.InferenceRequest({"detokenize_ids": np.array([ids], np.int32)},
                                        outputs=["text_output"])
    [response] = detokenize.execute([request])
    assert value(response).tolist() == [[b"The cat sat"]]


@pytest.mark.parametrize(("given", "message"), [
    ({"request_id": b"\xff"}, r"INVALID_ARG: id: b'\xff' is not allowed; it must be UTF-8"),
    ({"parameters": b'{"\xff": 1}'}, "INVALID_ARG: parameters: ")])
def test_what_http_takes_for_a_text_harms_nobody_else(tokenize, given, message):
    tensors = {"text_input": np.array([[b"Hi"]], np.object_)}
    bad, good = tokenize.execute([
        pb_utils.InferenceRequest(tensors, **given), prompt(text_input="The cat")])
    assert bad.error().message().startswith(message)
    assert value(good).size > 0


def test_an_id_that_is_no_text_is_refused_by_the_front_end():
    put, front_end = [], Generate()
    front_end._watch, front_end._session = None, SimpleNamespace(put=put.append)
    front_end.execute([pb_utils.InferenceRequest(
        {"text_input": np.array([[b"Hi"]], np.object_)}, request_id=b"\xff")])
    assert [refusal.error.field for refusal in put] == ["id"]


def test_ids_that_are_missing_are_named(detokenize):
    [response] = detokenize.execute([pb_utils.InferenceRequest(
        {"detokenize_span": np.array([[0, 1]], np.int32)}, outputs=["text_output"])])
    assert response.error().message().startswith("INVALID_ARG: detokenize_ids: 'nothing' ")
