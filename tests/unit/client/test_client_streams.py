"""Both clients against a gRPC server in this process; what holds for one is asked of both."""

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from triton_service import chunk, empty_final, failure, response, serve, tensors

from tritonlm.contract import ANSWER
from tritonlm.errors import EngineFailure, InvalidArgument, NotFound, Unavailable
from tritonlm_client import AsyncClient, Chunk, Client, Completion, Logprobs, TokenLogprob

WAIT_S = 5
NUM_STREAMS = 32
MIXED = [chunk("é", (5, 6), 0, num_output_tokens=(2,)),
         chunk("👋", (7,), 1, num_output_tokens=(3,)),
         chunk("", (), 2, "stop", num_output_tokens=(3,), is_final=True)]


def script_of(*responses):
    return lambda request, context: iter(responses)


def endless(request, context):
    index = 0
    while True:
        yield chunk("x", (1,), index)
        index += 1
        time.sleep(0.005)


def silent(request, context):
    time.sleep(1)
    yield empty_final()


class Sync:
    """Calls of the sync client, each with a client of its own."""

    def stream(self, url, **options):
        with Client(url) as client:
            return list(client.stream("Hi", **options))

    def call(self, url, method, *args, model="generate", **options):
        with Client(url, model) as client:
            return getattr(client, method)(*args, **options)


class Async:
    """The same calls of the asyncio client."""

    def stream(self, url, **options):
        async def read():
            async with AsyncClient(url) as client:
                return [chunk async for chunk in client.stream("Hi", **options)]
        return asyncio.run(read())

    def call(self, url, method, *args, model="generate", **options):
        async def call():
            async with AsyncClient(url, model) as client:
                return await getattr(client, method)(*args, **options)
        return asyncio.run(call())


@pytest.fixture(params=[Sync, Async])
def api(request):
    return request.param()


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
        assert time.monotonic() - start < 1


def test_a_bad_option_is_refused_before_anything_is_sent(api):
    with serve(silent) as triton:
        with pytest.raises(InvalidArgument, match="max_token:"):
            api.call(triton.url, "generate", "Hi", max_token=1)
        assert triton.requests == []


def test_leaving_the_loop_hangs_up():
    with serve(endless) as triton, Client(triton.url) as client:
        stream = client.stream("Hi")
        for _ in stream:
            break
        assert triton.hung_up.get(timeout=WAIT_S) == stream.request_id


def test_the_end_of_the_block_hangs_up():
    with serve(endless) as triton, Client(triton.url) as client:
        with client.stream("Hi") as stream:
            chunks = iter(stream)
            next(chunks)
        assert triton.hung_up.get(timeout=WAIT_S) == stream.request_id


def test_a_cancel_from_another_thread_ends_the_iteration():
    with serve(endless) as triton, Client(triton.url) as client:
        stream = client.stream("Hi")
        threading.Timer(0.1, stream.cancel).start()
        assert list(stream)
        assert triton.hung_up.get(timeout=WAIT_S) == stream.request_id


async def test_leaving_the_async_loop_hangs_up():
    with serve(endless) as triton:
        async with AsyncClient(triton.url) as client:
            stream = client.stream("Hi")
            async for _ in stream:
                break
            hung_up = await asyncio.to_thread(triton.hung_up.get, timeout=WAIT_S)
            assert hung_up == stream.request_id


async def test_a_cancelled_task_hangs_up():
    with serve(endless) as triton:
        async with AsyncClient(triton.url) as client:
            task = asyncio.create_task(client.generate("Hi", request_id="mine"))
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(triton.hung_up.get, timeout=WAIT_S) == "mine"


async def test_a_cancel_from_another_task_ends_the_iteration():
    with serve(endless) as triton:
        async with AsyncClient(triton.url) as client, client.stream("Hi") as stream:
            canceller = asyncio.create_task(cancel_soon(stream))
            assert [piece async for piece in stream]
            await canceller
            hung_up = await asyncio.to_thread(triton.hung_up.get, timeout=WAIT_S)
            assert hung_up == stream.request_id


async def cancel_soon(stream):
    await asyncio.sleep(0.1)
    await stream.cancel()


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


def ensemble_script(request, context):
    return script_of(empty_final())(request, context) if "cancel" in tensors(request) \
        else endless(request, context)


def cancels(triton):
    return [(request.model_name, tensors(request)["request_id"]) for request in triton.requests
            if "cancel" in tensors(request)]


@pytest.mark.parametrize(("model", "expected"), [
    ("generate", []), ("text_generation", [("generate", [[b"mine"]])]),
])
def test_a_hang_up_on_an_ensemble_cancels_inside_it(model, expected):
    with serve(ensemble_script) as triton, Client(triton.url, model) as client:
        for _ in client.stream("Hi", request_id="mine"):
            break
        assert cancels(triton) == expected


async def test_a_cancelled_task_cancels_inside_an_ensemble():
    with serve(ensemble_script) as triton:
        async with AsyncClient(triton.url, "text_generation") as client:
            task = asyncio.create_task(client.generate("Hi", request_id="mine"))
            await asyncio.sleep(0.1)
            task.cancel()
            await asyncio.wait([task])
        assert cancels(triton) == [("generate", [[b"mine"]])]


def test_a_deadline_on_an_ensemble_cancels_inside_it(api):
    with serve(ensemble_script) as triton:
        with pytest.raises(Unavailable):
            api.call(triton.url, "generate", "Hi", model="text_generation", timeout_s=0.1,
                     request_id="mine")
        assert cancels(triton) == [("generate", [[b"mine"]])]


def test_a_finished_answer_is_not_cancelled(api):
    with serve(script_of(*MIXED)) as triton:
        api.call(triton.url, "generate", "Hi", model="text_generation")
        assert len(triton.requests) == 1
        assert triton.hung_up.empty()


def test_a_refused_request_is_not_cancelled(api):
    with serve(script_of(failure(NotFound("none").coded_message))) as triton:
        with pytest.raises(NotFound):
            api.call(triton.url, "generate", "Hi", model="text_generation")
        assert len(triton.requests) == 1


def test_a_cancel_asks_for_the_outputs_of_an_answer(api):
    with serve(script_of(empty_final())) as triton:
        api.call(triton.url, "cancel", "mine")
        assert [output.name for output in triton.requests[0].outputs] == [
            tensor.name for tensor in ANSWER]


def test_cancel_says_whether_the_request_ran(api):
    for answer in (empty_final(), chunk("", finish_reason="cancelled", is_final=True)):
        with serve(script_of(answer)) as triton:
            assert api.call(triton.url, "cancel", "mine") is True
    with serve(script_of(failure(NotFound("none").coded_message))) as triton:
        assert api.call(triton.url, "cancel", "mine") is False
    with serve(script_of(failure(Unavailable("stopping").coded_message))) as triton, \
            pytest.raises(Unavailable):
        api.call(triton.url, "cancel", "mine")


def test_a_server_that_comes_back_is_found_again():
    with serve(script_of(*MIXED)) as triton, Client(triton.url) as client:
        assert client.is_live()
        triton.stop()
        assert not client.is_live()
        with serve(script_of(*MIXED), triton.url):
            deadline = time.monotonic() + WAIT_S
            while not client.is_live() and time.monotonic() < deadline:
                time.sleep(0.05)
            assert client.generate("Hi").text == "é👋"
