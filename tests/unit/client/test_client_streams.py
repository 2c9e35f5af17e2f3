"""Both clients against a gRPC server in this process; what holds for one is asked of both."""

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from calls import MIXED, WAIT_S, endless, script_of
from tests.drills.waiting import found
from triton_service import chunk, empty_final, failure, response, serve, tensors

from tritonlm.errors import EngineFailure, InvalidArgument, NotFound, Unavailable
from tritonlm_client import AsyncClient, Chunk, Client, Completion, Logprobs, TokenLogprob

NUM_STREAMS = 32


def silent(request, context):
    has_left = threading.Event()
    context.add_callback(has_left.set)
    has_left.wait(WAIT_S)
    yield empty_final()


def test_chunks_come_as_they_were_sent(api):
    with serve(script_of(*MIXED)) as triton:
        assert api.stream(triton.url) == [
            Chunk("é", (5, 6), 0, "", 1, 2), Chunk("👋", (7,), 1, "", 1, 3),
            Chunk("", (), 2, "stop", 1, 3),
        ]


def test_a_whole_answer_has_the_id_of_its_request(api):
    answer = chunk("é👋", (5, 6, 7), 0, "length", (4,), (3,), is_final=True)
    with serve(script_of(answer)) as triton:
        completion = api.call(triton.url, "generate", "Hi", request_id="mine")
    assert completion == Completion("é👋", (5, 6, 7), "length", 4, 3, "mine", model="generate")


SEVERAL = response(
    True, text_output=["é", "", "b"], output_ids=[5, 6, 7, 8], chunk_index=[0],
    finish_reason=["stop", "length", "stop"], num_input_tokens=[4], num_output_tokens=[1, 0, 3],
    sequence_index=[0, 1, 2], logprobs=[])
ENTRY = {"token": "é", "id": 5, "logprob": -0.5, "bytes": [195, 169]}
READ_ENTRY = TokenLogprob("é", 5, -0.5, "é".encode())


def test_several_sequences_in_one_response_are_told_apart(api):
    with serve(script_of(SEVERAL)) as triton:
        completion = api.call(triton.url, "generate", "Hi", n=3, request_id="mine")
    others = (Completion("", (), "length", 4, 0, "mine", model="generate"),
              Completion("b", (6, 7, 8), "stop", 4, 3, "mine", model="generate"))
    assert completion == Completion("é", (5,), "stop", 4, 1, "mine", others=others,
                                    model="generate")


def test_several_sequences_in_a_stream_are_told_apart(api):
    script = script_of(chunk("a", (1,), 0), chunk("b", (2,), 0, sequence_index=1),
                       chunk("c", (3,), 1, "stop", sequence_index=1),
                       chunk("d", (4,), 1, "length", is_final=True))
    with serve(script) as triton:
        chunks = api.stream(triton.url, n=2)
    assert [(piece.sequence_index, piece.text) for piece in chunks] == [
        (0, "a"), (1, "b"), (1, "c"), (0, "d")]
    joined = Completion.join("mine", chunks)
    assert (joined.text, [other.text for other in joined.others]) == ("ad", ["bc"])


def test_log_probabilities_are_read(api):
    first = {"content": [{**ENTRY, "top_logprobs": [ENTRY, ENTRY]}], "prompt": [None, ENTRY]}
    script = script_of(chunk("é", (5,), 0, logprobs=(json.dumps(first),)),
                       chunk("é", (5,), 1, "stop", logprobs=(json.dumps({"content": [ENTRY]}),),
                             is_final=True))
    with serve(script) as triton:
        chunks = api.stream(triton.url, logprobs=2, prompt_logprobs=0)
    token = replace(READ_ENTRY, alternatives=(READ_ENTRY, READ_ENTRY))
    assert chunks[0].logprobs == Logprobs((token,), (None, READ_ENTRY))
    assert Completion.join("", chunks).logprobs == Logprobs((token, READ_ENTRY), (None, READ_ENTRY))


def test_counts_that_were_not_asked_for_are_none(api):
    answer = chunk("a", (5,), 0, "stop", (), (), is_final=True)
    with serve(script_of(answer)) as triton:
        completion = api.call(triton.url, "generate", "Hi", return_num_input_tokens=False,
                              return_num_output_tokens=False)
    assert (completion.num_input_tokens, completion.num_output_tokens) == (None, None)


def test_a_chunk_comes_before_the_next_is_made():
    may_go_on = threading.Event()

    def script(request, context):
        yield chunk("a")
        assert may_go_on.wait(WAIT_S)
        yield chunk("b", index=1, is_final=True)

    with serve(script) as triton, Client(triton.url) as client:
        for piece in client.stream("Hi"):
            assert piece.index or not may_go_on.is_set()
            may_go_on.set()


def test_an_empty_final_response_ends_a_stream(api):
    with serve(script_of(chunk("a"), empty_final())) as triton:
        assert [piece.text for piece in api.stream(triton.url)] == ["a"]


def test_an_answer_without_a_chunk_is_an_error(api):
    with serve(script_of(empty_final())) as triton, \
            pytest.raises(Unavailable, match="without an answer"):
        api.call(triton.url, "generate", "Hi")


def test_an_error_in_the_middle_is_raised_as_its_class(api):
    error = InvalidArgument("max_tokens", 9, "at most 8")
    with serve(script_of(chunk("a"), failure(error.coded_message))) as triton, \
            pytest.raises(InvalidArgument) as caught:
        api.stream(triton.url)
    assert caught.value.message == error.message


def test_a_stream_without_its_final_response_is_an_error(api):
    with serve(script_of(chunk("a"))) as triton, pytest.raises(Unavailable, match="before"):
        api.stream(triton.url)


def test_a_model_with_one_response_is_not_asked_on_a_stream(api):
    """There tritonserver loses what it puts into its cache."""
    with serve(script_of(chunk("Hi", finish_reason="stop"))) as triton:
        assert api.call(triton.url, "generate", "Hi", model="complete").text == "Hi"
        triton.script = script_of(failure("NOT_FOUND: no such adapter"))
        with pytest.raises(NotFound, match=r"no such adapter$"):
            api.call(triton.url, "generate", "Hi", model="complete")
    assert triton.asked_once == ["complete"] * 2


def test_what_may_be_empty_may_be_left_out(api):
    answer = response(True, text_output=["a"], chunk_index=[0], finish_reason=["stop"],
                      sequence_index=[0])
    with serve(script_of(answer)) as triton:
        whole = api.call(triton.url, "generate", "Hi")
    assert (whole.text, whole.token_ids, whole.finish_reason) == ("a", (), "stop")
    assert (whole.num_input_tokens, whole.num_output_tokens, whole.logprobs) == (None, None, None)


def test_a_response_without_an_output_is_an_error(api):
    answer = chunk("a", is_final=True)
    del answer.infer_response.outputs[0], answer.infer_response.raw_output_contents[0]
    with serve(script_of(answer)) as triton, pytest.raises(EngineFailure, match="text_output"):
        api.stream(triton.url)


def test_a_server_that_is_not_there_is_named(api):
    for method, args in (("generate", ["Hi"]), ("cancel", ["mine"]), ("models", [])):
        with pytest.raises(Unavailable, match="localhost:9: "):
            api.call("localhost:9", method, *args)
    assert not api.call("localhost:9", "is_live")
    assert not api.call("localhost:9", "is_ready")


def test_a_server_that_dies_ends_the_stream():
    with serve(endless) as triton, Client(triton.url) as client:
        chunks = iter(client.stream("Hi"))
        next(chunks)
        threading.Thread(target=triton.stop).start()
        with pytest.raises(Unavailable):
            list(chunks)


def test_no_answer_in_time_is_an_error(api):
    with serve(silent) as triton:
        start = time.monotonic()
        with pytest.raises(Unavailable, match="Deadline"):
            api.call(triton.url, "generate", "Hi", timeout_s=0.1)
        assert time.monotonic() - start < WAIT_S


def test_a_bad_option_is_refused_before_anything_is_sent(api):
    with serve(silent) as triton:
        with pytest.raises(InvalidArgument, match="max_token:"):
            api.call(triton.url, "generate", "Hi", max_token=1)
        assert triton.requests == []


def together():
    """A script that answers no stream before all of them are open; each gets its own text back."""
    barrier = threading.Barrier(NUM_STREAMS)

    def script(request, context):
        barrier.wait(WAIT_S)
        [[text]] = tensors(request)["text_input"]
        for index in range(3):
            yield chunk(text.decode(), (index,), index, is_final=index == 2)
    return script


PROMPTS = [f"prompt {number}" for number in range(NUM_STREAMS)]
ECHOES = [[prompt] * 3 for prompt in PROMPTS]


def test_threads_share_a_client():
    with serve(together()) as triton, Client(triton.url) as client, \
            ThreadPoolExecutor(NUM_STREAMS) as pool:
        read = pool.map(lambda prompt: [piece.text for piece in client.stream(prompt)], PROMPTS)
        assert list(read) == ECHOES


def test_one_thread_opens_many_streams():
    with serve(together()) as triton, Client(triton.url) as client:
        streams = [client.stream(prompt) for prompt in PROMPTS]
        assert [[piece.text for piece in stream] for stream in streams] == ECHOES


async def test_tasks_share_a_client():
    async def read(client, prompt):
        return [piece.text async for piece in client.stream(prompt)]

    with serve(together()) as triton:
        async with AsyncClient(triton.url) as client:
            assert await asyncio.gather(*(read(client, prompt) for prompt in PROMPTS)) == ECHOES


def test_a_server_that_comes_back_is_found_again():
    with serve(script_of(*MIXED)) as triton, Client(triton.url) as client:
        assert client.is_live()
        triton.stop()
        assert not client.is_live()
        with serve(script_of(*MIXED), triton.url):
            found(client.is_live, bool)
            assert client.generate("Hi").text == "é👋"
