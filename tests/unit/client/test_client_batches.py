"""Many prompts at once, and chats: what holds for one client is asked of both."""

import asyncio
import threading

import pytest
from calls import WAIT_S
from triton_service import chunk, failure, serve, tensors

from tritonlm.errors import InvalidArgument
from tritonlm_client import AsyncClient, Chunk, Client, Completion, Retry
from tritonlm_client.conversation import answer_of

PROMPTS = [f"prompt {number}" for number in range(20)]


class Sync:
    def batch(self, url, prompts, **settings):
        with Client(url) as client:
            return list(client.batch(prompts, **settings))

    def ask(self, url, questions, num_chunks=None):
        with Client(url) as client:
            chat = client.chat("Speak.")
            for question in questions:
                for number, _ in enumerate(chat.ask(question, max_tokens=3), 1):
                    if number == num_chunks:
                        break
            return chat.messages


class Async:
    def batch(self, url, prompts, **settings):
        async def read():
            async with AsyncClient(url) as client:
                return [answer async for answer in client.batch(prompts, **settings)]
        return asyncio.run(read())

    def ask(self, url, questions, num_chunks=None):
        async def ask():
            async with AsyncClient(url) as client:
                chat = client.chat("Speak.")
                for question in questions:
                    asked = chat.ask(question, max_tokens=3)
                    for number in range(num_chunks or 3):
                        if await anext(asked, None) is None or number + 1 == num_chunks:
                            break
                    await asked.aclose()
                return chat.messages
        return asyncio.run(ask())


@pytest.fixture(params=[Sync, Async])
def api(request):
    return request.param()


def prompt_of(request):
    return tensors(request)["text_input"][0][0].decode()


def echo(request, context):
    yield chunk(prompt_of(request), finish_reason="stop", is_final=True)


def test_prompts_that_are_refused_before_they_are_sent_count_as_done(api, capsys):
    with serve(echo) as triton:
        answers = api.batch(triton.url, ["one", "", "two"], progress=True, keep_errors=True)
    assert isinstance(answers[1], InvalidArgument)
    assert "3/3" in capsys.readouterr().err


def test_answers_come_in_the_order_of_their_prompts(api):
    """However long each takes: every first of two waits for the second."""
    second_is_there = [threading.Event() for _ in range(10)]

    def script(request, context):
        number = int(prompt_of(request).split()[1])
        if number % 2:
            second_is_there[number // 2].set()
        else:
            assert second_is_there[number // 2].wait(WAIT_S)
        yield from echo(request, context)

    with serve(script) as triton:
        answers = api.batch(triton.url, PROMPTS, concurrency=4)
    assert [answer.text for answer in answers] == PROMPTS


def test_no_more_than_so_many_run_at_once(api):
    lock, running, most = threading.Lock(), set(), [0]
    is_full = threading.Event()

    def script(request, context):
        with lock:
            running.add(request.id)
            most[0] = max(most[0], len(running))
            if len(running) == 3:
                is_full.set()
        assert is_full.wait(WAIT_S)
        with lock:
            running.discard(request.id)
        yield from echo(request, context)

    with serve(script) as triton:
        assert len(api.batch(triton.url, iter(PROMPTS), concurrency=3)) == len(PROMPTS)
    assert most == [3]


def refuses_third(request, context):
    if prompt_of(request) == "prompt 3":
        yield failure("INVALID_ARG: top_p: 2 is not allowed")
    else:
        yield from echo(request, context)


def test_an_error_is_raised_or_stands_in_its_place(api):
    with serve(refuses_third) as triton:
        with pytest.raises(InvalidArgument):
            api.batch(triton.url, PROMPTS)
        answers = api.batch(triton.url, PROMPTS, keep_errors=True)
    assert isinstance(answers[3], InvalidArgument)
    assert [answer.text for answer in answers if isinstance(answer, Completion)] == [
        prompt for prompt in PROMPTS if prompt != "prompt 3"]


def test_options_go_with_every_prompt_and_a_bar_counts_them(api, capsys):
    with serve(echo) as triton:
        api.batch(triton.url, PROMPTS, progress=True, max_tokens=7)
        assert all(tensors(request)["max_tokens"] == [[7]] for request in triton.requests)
    assert "20/20" in capsys.readouterr().err


def ends_the_first_of_four():
    """A script that ends the first prompt's answer once all are there, and the others' never."""
    all_are_there = threading.Barrier(4)

    def script(request, context):
        yield chunk("x")
        all_are_there.wait(WAIT_S)
        while prompt_of(request) != PROMPTS[0] and context.is_active():
            threading.Event().wait(0.01)
        yield chunk("", index=1, finish_reason="stop", is_final=True)
    return script


def test_leaving_the_loop_cancels_what_runs():
    with serve(ends_the_first_of_four()) as triton, Client(triton.url) as client:
        for _ in client.batch(PROMPTS[:4], concurrency=4):
            break
        hung_up = {triton.hung_up.get(timeout=WAIT_S) for _ in range(3)}
        assert len(hung_up) == 3


async def test_leaving_the_async_loop_cancels_what_runs():
    with serve(ends_the_first_of_four()) as triton:
        async with AsyncClient(triton.url) as client:
            answers = client.batch(PROMPTS[:4], concurrency=4)
            await anext(answers)
            await answers.aclose()
            for _ in range(3):
                assert await asyncio.to_thread(triton.hung_up.get, timeout=WAIT_S)


def test_a_concurrency_that_cannot_be_is_refused(api):
    with pytest.raises(InvalidArgument, match="concurrency"):
        api.batch("localhost:9", PROMPTS, concurrency=0)


def three(request, context):
    for index, text in enumerate("abc"):
        yield chunk(text, index=index, finish_reason="stop" if index == 2 else "",
                    is_final=index == 2)


OPENING = {"role": "system", "content": "Speak."}


def said(question, answer):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def test_a_chat_remembers_what_was_said(api):
    with serve(three) as triton:
        messages = api.ask(triton.url, ["Who?", "Why?"])
        assert b'"Why?"' in tensors(triton.requests[1])["messages"][0][0]
        assert b'"abc"' in tensors(triton.requests[1])["messages"][0][0]
    assert messages == [OPENING, *said("Who?", "abc"), *said("Why?", "abc")]


def test_a_chat_keeps_what_was_read_of_an_answer(api):
    with serve(three) as triton:
        assert api.ask(triton.url, ["Who?"], num_chunks=2) == [OPENING, *said("Who?", "ab")]


def test_a_chat_forgets_a_question_that_got_no_answer():
    with serve(lambda *_: iter([failure("INVALID_ARG: messages: too long")])) as triton, \
            Client(triton.url) as client:
        chat = client.chat()
        with pytest.raises(InvalidArgument):
            list(chat.ask("Who?"))
        assert chat.messages == []


def test_a_chat_keeps_an_answer_that_was_begun_again_once():
    def broken_once(request, context):
        yield chunk("Who ")
        if len(triton.requests) == 1:
            yield failure("UNAVAILABLE: the engine was lost")
        yield chunk("goes?", index=1, finish_reason="stop", is_final=True)
    with serve(broken_once) as triton, Client(
            triton.url, retry=Retry(after_first_token=True)) as client:
        chat = client.chat()
        assert [piece.text for piece in chat.ask("Hi")] == ["Who ", "Who ", "goes?"]
        assert chat.messages[-1]["content"] == "Who goes?"


def test_a_chat_keeps_the_first_of_several_answers():
    def piece(text, index, sequence_index):
        return Chunk(text, (1,), index, "", 1, 1, sequence_index)
    assert answer_of([piece("a", 0, 0), piece("x", 0, 1), piece("b", 1, 0)]) == "ab"
