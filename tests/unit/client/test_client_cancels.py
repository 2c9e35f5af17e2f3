"""Clients that leave, and requests that are cancelled."""

from __future__ import annotations

import asyncio
import threading
import time

import grpc
import pytest
from calls import MIXED, WAIT_S, endless, script_of
from tests.drills.waiting import until
from triton_service import chunk, empty_final, failure, serve, tensors

from tritonlm.contract import ANSWER
from tritonlm.errors import NotFound, Unavailable
from tritonlm_client import AsyncClient, Client, DeadlineExceeded


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
        chunks = iter(stream)
        next(chunks)
        threading.Timer(0.05, stream.cancel).start()
        for _ in chunks:  # to the end, which there would not be
            pass
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
            await until(lambda: triton.requests, "no request")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(triton.hung_up.get, timeout=WAIT_S) == "mine"


async def test_a_cancel_from_another_task_ends_the_iteration():
    with serve(endless) as triton:
        async with AsyncClient(triton.url) as client, client.stream("Hi") as stream:
            chunks = aiter(stream)
            await anext(chunks)
            canceller = asyncio.create_task(cancel_soon(stream))
            async for _ in chunks:
                pass
            await canceller
            hung_up = await asyncio.to_thread(triton.hung_up.get, timeout=WAIT_S)
            assert hung_up == stream.request_id


async def cancel_soon(stream):
    await asyncio.sleep(0.05)
    await stream.cancel()


def slow(request, context):
    """One response, which comes when nobody waits any more."""
    while context.is_active():
        time.sleep(0.01)
    yield chunk("late", is_final=True)


def ensemble_script(request, context):
    return script_of(empty_final())(request, context) if "cancel" in tensors(request) \
        else endless(request, context)


def lose_all_but_cancels(request, context):
    if "cancel" not in tensors(request):
        context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
    yield empty_final()


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
            await until(lambda: triton.requests, "no request")
            task.cancel()
            await asyncio.wait([task])
        assert cancels(triton) == [("generate", [[b"mine"]])]


def test_a_model_with_one_response_hears_of_a_hang_up():
    with serve(slow) as triton, Client(triton.url, "complete") as client:
        stream = client.stream("Hi")
        threading.Timer(0.2, stream.cancel).start()
        assert list(stream) == []
        assert triton.hung_up.get(timeout=WAIT_S) == stream.request_id


async def test_a_cancelled_task_hangs_up_on_a_model_with_one_response():
    with serve(slow) as triton:
        async with AsyncClient(triton.url, "complete") as client:
            task = asyncio.create_task(client.generate("Hi", request_id="mine"))
            await until(lambda: triton.requests, "no request")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(triton.hung_up.get, timeout=WAIT_S) == "mine"


def test_an_ensemble_is_told_the_deadline_and_cancelled_no_more(api):
    with serve(slow) as triton:
        with pytest.raises(DeadlineExceeded):
            api.call(triton.url, "generate", "Hi", model="text_generation", timeout_s=0.5,
                     request_id="mine")
        assert 1 <= tensors(triton.requests[0])["timeout_ms"][0][0] <= 500
        assert cancels(triton) == []


def test_a_lost_connection_to_an_ensemble_cancels_inside_it(api):
    with serve(lose_all_but_cancels) as triton:
        with pytest.raises(Unavailable):
            api.call(triton.url, "generate", "Hi", model="text_generation", request_id="mine")
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


def test_an_error_of_a_client_that_was_closed_is_told_as_it_is():
    """The second try finds no connection, and nothing that could be cancelled."""
    with serve(script_of(failure("UNAVAILABLE: no"))) as triton:
        client = Client(triton.url)
        stream = client.stream("Hi")
        client.close()
        with pytest.raises(ValueError, match="closed"):
            list(stream)
