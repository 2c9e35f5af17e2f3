"""Requests and responses as Triton's HTTP has them."""

import json
from contextlib import nullcontext

import numpy as np
import pytest
from page_server import serve_page

from tritonlm.errors import InvalidArgument, NotFound, ServingError, Unavailable
from tritonlm_client import AsyncClient, Client, Retry
from tritonlm_client.http_wire import event_chunks, failure, infer_body, infer_tensors, text_body
from tritonlm_client.requests import text_request
from tritonlm_client.tasks import MAX_ROWS, embed_requests, rerank_requests

EVENT = {"chunk_index": 2, "finish_reason": "", "logprobs": [], "num_input_tokens": 3,
         "num_output_tokens": 3, "output_ids": [7, 8], "sequence_index": 0, "text_output": "é"}


def test_a_value_is_written_without_its_list_and_a_list_with_it():
    options = {"stop": ["a", "b"], "max_tokens": 3, "seed": 2**64 - 1, "logit_bias": {5: 1},
               "request_id": "mine"}
    request = text_request("generate", [5, 6], options, True)
    assert text_body(request) == {
        "request_id": "mine", "input_ids": [5, 6], "stop": ["a", "b"], "max_tokens": 3,
        "seed": 2**64 - 1, "logit_bias": '{"5": 1.0}', "stream": True}


def test_an_event_is_a_chunk():
    [chunk] = event_chunks(f"data: {json.dumps(EVENT)}")
    assert (chunk.text, chunk.token_ids) == ("é", (7, 8))
    assert (chunk.index, chunk.num_output_tokens) == (2, 3)
    assert event_chunks("") == []


def test_an_event_may_be_an_error():
    with pytest.raises(Unavailable, match=r"^the engine was lost$"):
        event_chunks('data: {"error": "UNAVAILABLE: the engine was lost"}')


@pytest.mark.parametrize(("status", "text", "kind"), [
    (400, 'data: {"error": "INVALID_ARG: top_p: 2 is not allowed"}', InvalidArgument),
    (400, '{"error": "no such text"}', InvalidArgument),
    (404, '{"error": "Request for unknown model: \'x\' is not found"}', NotFound),
    (503, "<html>nginx", Unavailable), (502, "", Unavailable), (418, "tea", ServingError),
])
def test_a_status_is_an_error(status, text, kind):
    assert type(failure("http://a:1", status, text)) is kind


def test_what_does_not_speak_as_triton_is_named_and_quoted():
    told = '{"error": {"message": "no such path"}}'  # as the gateway's are
    assert failure("http://a:1", 404, told).message == f"http://a:1: status 404: {told}"


@pytest.mark.parametrize(("options", "reasons", "is_whole"), [
    ({}, ["", "stop"], True), ({}, ["", ""], False), ({}, [], False),
    ({"n": 2}, ["stop"], False), ({"return_finish_reason": False}, [""], True)])
def test_a_body_that_ends_before_its_answer_is_no_answer(api, options, reasons, is_whole):
    """As that of a proxy does whose server has died."""
    events = [f"data: {json.dumps(EVENT | {'finish_reason': reason})}\n\n" for reason in reasons]
    with serve_page("".join(events)) as page:
        url = f"http://127.0.0.1:{page.server_port}"
        with nullcontext() if is_whole else pytest.raises(Unavailable, match="was whole"):
            assert api.call(url, "generate", "Hi", **options).text == "é" * len(reasons)


def test_tasks_are_sent_in_requests_of_so_many_rows():
    requests = embed_requests("embed", ["a"] * (MAX_ROWS + 1), 8)
    assert [request.tensors["text_input"].shape for request in requests] == [(MAX_ROWS, 1), (1, 1)]
    assert infer_body(requests[1])["inputs"] == [
        {"name": "text_input", "datatype": "BYTES", "shape": (1, 1), "data": ["a"]},
        {"name": "dimensions", "datatype": "INT32", "shape": (1, 1), "data": [8]}]


def test_tensors_have_their_shapes():
    told = infer_tensors(json.dumps({"outputs": [
        {"name": "label", "datatype": "BYTES", "shape": [1, 2], "data": ["good", "bad"]},
        {"name": "score", "datatype": "FP32", "shape": [1, 2], "data": [0.75, 0.25]}]}))
    assert told["label"].tolist() == [["good", "bad"]]
    assert told["score"].dtype == np.float32


@pytest.mark.parametrize("texts", [[], "a text", [1]])
def test_texts_that_are_none_are_refused(texts):
    with pytest.raises(InvalidArgument):
        rerank_requests("rerank", "query", texts)


def test_a_server_that_is_not_there_is_named():
    with Client("http://localhost:9", retry=Retry(num_tries=1)) as client:
        for call in (client.models, lambda: client.generate("Hi"), lambda: client.cancel("mine"),
                     lambda: client.embed(["a"])):
            with pytest.raises(Unavailable, match="http://localhost:9: "):
                call()
        assert not client.is_live()
        assert not client.is_ready()


async def test_a_server_that_is_not_there_is_named_by_the_async_client():
    async with AsyncClient("http://localhost:9", retry=Retry(num_tries=1)) as client:
        for call in (client.models, lambda: client.generate("Hi"), lambda: client.cancel("mine"),
                     lambda: client.embed(["a"])):
            with pytest.raises(Unavailable, match="http://localhost:9: "):
                await call()
        assert not await client.is_live()
        assert not await client.is_ready()
