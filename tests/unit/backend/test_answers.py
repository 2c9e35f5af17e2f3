"""What is sent to Triton: which outputs, when, and what a cache may keep of them."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import triton_python_backend_utils as pb_utils

from tritonlm.backend.complete import Complete
from tritonlm.backend.generation import CANCELLED_VALUES, Answer
from tritonlm.contract import MODELS
from tritonlm.errors import InvalidArgument
from tritonlm.options import Options

OUTPUTS = [tensor.name for tensor in MODELS["complete"].outputs]
WHOLE = CANCELLED_VALUES | {"text_output": ["Hi"], "output_ids": [5], "finish_reason": ["stop"]}


def sent(values, is_cached, outputs=OUTPUTS):
    """Names and values of the outputs of an answer."""
    request = pb_utils.InferenceRequest({}, outputs=outputs)
    Answer(request, MODELS["complete"], is_cached).send(values, is_final=True)
    [response] = request.sender.sent
    return {tensor.name(): tensor.as_numpy()[0].tolist() for tensor in response.output_tensors()}


def test_without_a_cache_all_requested_outputs_are_sent():
    assert sent(WHOLE, is_cached=False).keys() == {*OUTPUTS}
    assert sent(WHOLE, is_cached=False, outputs=["text_output", "logprobs"]) == {
        "text_output": [b"Hi"], "logprobs": []}


def test_an_answer_that_is_to_be_kept_has_no_empty_outputs():
    got = sent(WHOLE, is_cached=True)
    assert got["text_output"] == [b"Hi"]
    assert all(got.values())
    assert {"logprobs", "perf_metrics"}.isdisjoint(got)


@pytest.mark.parametrize("reason", ["cancelled", "deadline"])
@pytest.mark.parametrize("outputs", [
    OUTPUTS, ["text_output"], ["output_ids"], ["output_ids", "finish_reason"]])
def test_an_answer_that_was_cut_short_has_an_empty_output_and_so_is_not_kept(reason, outputs):
    got = sent(WHOLE | {"finish_reason": [reason]}, is_cached=True, outputs=outputs)
    assert [] in got.values()
    assert got.get("finish_reason", [reason.encode()]) == [reason.encode()]


def test_an_answer_without_a_token_may_be_kept():
    assert "output_ids" not in sent(WHOLE | {"output_ids": []}, is_cached=True)


def test_an_answer_cut_short_without_text_is_not_kept_either():
    got = sent(WHOLE | {"finish_reason": ["cancelled"]}, True, ["finish_reason", "chunk_index"])
    assert got == {"finish_reason": [], "chunk_index": []}


@pytest.mark.parametrize("option", ["stream", "cancel"])
def test_complete_refuses_what_has_no_one_response(option):
    with pytest.raises(InvalidArgument, match=f"^{option}: True is not allowed; generate does"):
        Complete().check(Options(**{option: True, "request_id": "x"}))


def test_a_cache_needs_to_be_told_how_an_answer_ended():
    model = Complete()
    model.check(Options(return_finish_reason=False))
    model.is_cached = True
    model.check(Options())
    with pytest.raises(InvalidArgument, match=r"^return_finish_reason: False is not"):
        model.check(Options(return_finish_reason=False))


@pytest.mark.parametrize(("setting", "is_cached"), [
    ({}, False), ({"response_cache": {"enable": False}}, False),
    ({"response_cache": {"enable": True}}, True)])
def test_complete_knows_from_its_config_whether_there_is_a_cache(monkeypatch, setting, is_cached):
    monkeypatch.setattr("tritonlm.backend.generate.Generate.initialize", lambda *_: None)
    model = Complete()
    model.initialize({"model_config": json.dumps(setting)})
    assert model.is_cached is is_cached


def test_time_to_send_is_counted():
    request = pb_utils.InferenceRequest({}, outputs=OUTPUTS)
    answer = Answer(request, MODELS["complete"])
    answer._sender = SimpleNamespace(send=lambda *_, **__: sum(range(100_000)))
    answer.send(WHOLE, is_final=True)
    assert 0 < answer.budget.send_s < 1
