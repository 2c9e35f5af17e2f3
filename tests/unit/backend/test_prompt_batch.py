"""Requests of several prompts: what each prompt gets, and how the answers leave."""

from __future__ import annotations

import numpy as np
import pytest
import triton_python_backend_utils as pb_utils

from tritonlm.backend.generation import CANCELLED_VALUES
from tritonlm.backend.prompt_batch import PromptAnswer, PromptBatch, prompt_rows
from tritonlm.contract import MODELS
from tritonlm.errors import InvalidArgument, Unavailable


def texts(*values):
    return np.array([[value.encode()] for value in values], np.object_)


def test_row_i_of_every_tensor_is_prompt_i():
    rows = prompt_rows({"text_input": texts("a", "b"), "seed": np.array([[1], [2]], np.uint64)})
    assert [{name: values.tolist() for name, values in row.items()} for row in rows] == [
        {"text_input": [[b"a"]], "seed": [[1]]}, {"text_input": [[b"b"]], "seed": [[2]]}]


def test_a_request_of_one_row_is_left_as_it_is():
    ids = np.array([[5, -1]], np.int32)
    [row] = prompt_rows({"input_ids": ids, "top_k": np.array([3])})
    assert row["input_ids"] is ids


def test_rows_of_ids_are_filled_up():
    ids = np.array([[5, 6, 7], [8, -1, -1], [-1, 9, -1], [-1, -1, -1]], np.int32)
    rows = prompt_rows({"input_ids": ids, "top_k": np.full((4, 1), -1, np.int32)})
    assert [row["input_ids"].tolist() for row in rows] == [[[5, 6, 7]], [[8]], [[-1, 9]], [[]]]
    assert [row["top_k"].tolist() for row in rows] == [[[-1]]] * 4


def test_a_tensor_with_other_rows_is_refused():
    with pytest.raises(InvalidArgument, match=r"top_k: \[1, 1\] is not allowed; one row a prompt"):
        prompt_rows({"text_input": texts("a", "b"), "top_k": np.array([[3]], np.int32)})


@pytest.fixture
def begin():
    """Answers to three prompts of one request, and its sender."""
    def begin(model, is_cached=False):
        outputs = [tensor.name for tensor in MODELS[model].outputs]
        request = pb_utils.InferenceRequest({}, outputs=outputs)
        batch = PromptBatch(3)
        return [PromptAnswer(request, MODELS[model], is_cached, batch, index)
                for index in range(3)], request.sender
    return begin


def values(index, *texts, ids=(), reason="length"):
    return CANCELLED_VALUES | {
        "text_output": [*texts], "output_ids": [*ids], "finish_reason": [reason] * len(texts),
        "num_output_tokens": [len(ids)], "num_input_tokens": [1], "prompt_index": index}


def said(response):
    return {tensor.name(): tensor.as_numpy().tolist() for tensor in response.output_tensors()}


def test_complete_has_one_response_in_the_order_of_the_prompts(begin):
    answers, sender = begin("complete")
    for index, ids in ((2, [7]), (0, [5, 6]), (1, [])):
        assert not sender.sent
        answers[index].send(values(index, f"text {index}", ids=ids), True)
        assert answers[index].is_finished
    assert sender.is_final
    [response] = map(said, sender.sent)
    assert response["text_output"] == [[b"text 0"], [b"text 1"], [b"text 2"]]
    assert response["output_ids"] == [[5, 6], [-1, -1], [7, -1]]
    assert response["num_output_tokens"] == [[2], [0], [1]]
    assert response["chunk_index"] == [[0], [0], [0]]
    assert response["logprobs"] == [[], [], []]


def test_generate_answers_each_prompt_as_it_ends(begin):
    answers, sender = begin("generate")
    answers[1].send(values(1, "a"), False)
    answers[2].send(values(2, "b"), True)
    answers[1].send(values(1, "c"), True)
    assert not sender.is_final
    answers[0].send(values(0, "d"), True)
    assert sender.is_final
    assert [(one["prompt_index"], one["text_output"]) for one in map(said, sender.sent)] == [
        ([[1]], [[b"a"]]), ([[2]], [[b"b"]]), ([[1]], [[b"c"]]), ([[0]], [[b"d"]])]


@pytest.mark.parametrize("model", ["generate", "complete"])
def test_the_first_error_is_the_end_and_names_its_prompt(begin, model):
    answers, sender = begin(model)
    answers[0].send(values(0, "a"), True)
    answers[2].fail(Unavailable("the engine was lost"))
    assert sender.is_final
    assert sender.sent[-1].error().message() == "UNAVAILABLE: prompt 2: the engine was lost"
    num_sent = len(sender.sent)
    assert answers[1].is_abandoned()
    answers[1].send(values(1, "b"), True)
    answers[1].fail(Unavailable("too"))
    assert len(sender.sent) == num_sent
    assert all(answer.is_finished for answer in answers)


def test_a_client_that_hangs_up_is_asked_for_once(begin):
    answers, sender = begin("generate")
    sender.cancel()
    assert answers[0].is_abandoned()
    sender.is_cancelled = None  # not asked again
    assert answers[1].is_abandoned()


def test_a_batch_that_was_cut_short_is_not_cached(begin):
    answers, sender = begin("complete", is_cached=True)
    for index, reason in enumerate(("length", "deadline", "stop")):
        answers[index].send(values(index, "a", ids=[5], reason=reason), True)
    [response] = map(said, sender.sent)
    assert (response["text_output"], response["output_ids"]) == ([[]], [[]])
    assert response["finish_reason"] == [[b"length"], [b"deadline"], [b"stop"]]
