"""What is tried again, when, and what is not: with a clock that the test turns."""

import asyncio
import math
import threading
import time

import pytest
from tenacity import Retrying
from tests.drills.waiting import until
from triton_service import chunk, empty_final, failure, serve, tensors

from tritonlm.errors import EngineFailure, InvalidArgument, NotFound, Unavailable
from tritonlm_client import AsyncClient, Client, DeadlineExceeded, Retry, attempts
from tritonlm_client.balancing.health import MAX_FAILURES
from tritonlm_client.deadline import Deadline

QUICK = Retry(first_wait_s=0.01, max_wait_s=2)
SOON_S = 0.1
"""By then the refusal has come, as a rule; if it has not, the cancel does as well."""
FULL = "UNAVAILABLE: 8 requests wait, the most that is allowed; retry in {} s"


class Time:
    """A clock that only sleeping moves."""

    def __init__(self):
        self.now_s = 0.0
        self.slept_s = []

    def __call__(self):
        return self.now_s

    def sleep(self, wait_s):
        self.slept_s.append(wait_s)
        self.now_s += wait_s


def tried(retry, *errors, timeout_s=None, time=None):
    """What comes of calls of which the first fail with `errors`, and how long was slept."""
    time = time or Time()
    left = list(errors)

    def call():
        if left:
            raise left.pop(0)
        return "answer"

    rules = retry.rules(Deadline(timeout_s, time), lambda: True)
    return Retrying(**rules, sleep=time.sleep)(call), time.slept_s


def test_waits_are_random_below_a_bound_that_doubles():
    retry = Retry(num_tries=5, first_wait_s=1, max_wait_s=3)
    runs = [tried(retry, *[Unavailable("no")] * 4)[1] for _ in range(50)]
    for place, bound_s in enumerate((1, 2, 3, 3)):
        waits_s = {run[place] for run in runs}
        assert 0 <= min(waits_s) < bound_s / 3 < bound_s / 2 < max(waits_s) <= bound_s


def test_a_servers_own_hint_is_waited_for():
    answer, [waited_s] = tried(Retry(first_wait_s=1), Unavailable("full; retry in 7 s"))
    assert answer == "answer"
    assert 7 <= waited_s <= 8


@pytest.mark.parametrize("error", [
    Unavailable("full; retry in 11 s"), InvalidArgument("top_p", 2, "at most 1"), NotFound("none"),
    EngineFailure("a bug"), DeadlineExceeded("late"),
])
def test_what_would_not_help_is_not_tried_again(error):
    time = Time()
    with pytest.raises(type(error)):
        tried(Retry(max_wait_s=10), error, time=time)
    assert time.slept_s == []


def test_the_last_error_is_raised_after_so_many_tries():
    errors = [Unavailable(str(number)) for number in range(4)]
    with pytest.raises(Unavailable, match="2"):
        tried(Retry(num_tries=3), *errors)


def test_no_wait_goes_beyond_the_deadline():
    time = Time()
    with pytest.raises(Unavailable, match="retry in 3 s"):
        tried(Retry(num_tries=9), *[Unavailable("full; retry in 3 s")] * 9, timeout_s=8, time=time)
    assert len(time.slept_s) == 2


@pytest.mark.parametrize(("field", "values"), [
    ("num_tries", {"num_tries": 0}), ("first_wait_s", {"first_wait_s": -1}),
    ("max_wait_s", {"first_wait_s": 2, "max_wait_s": 1}),
])
def test_values_out_of_range_are_refused(field, values):
    with pytest.raises(InvalidArgument) as caught:
        Retry(**values)
    assert caught.value.field == field


def after(*failures):
    """A script that plays one of `failures` for each of the first requests, then an answer."""
    left = list(failures)

    def script(request, context):
        if left:
            yield from left.pop(0)
        else:
            yield chunk("a")
            yield chunk("b", index=1, finish_reason="stop", is_final=True)
    return script


class Sync:
    def stream(self, url, *, retry=QUICK, fallback_model=None, **options):
        with Client(url, retry=retry, fallback_model=fallback_model) as client:
            return list(client.stream("Hi", **options))


class Async:
    def stream(self, url, *, retry=QUICK, fallback_model=None, **options):
        async def read():
            async with AsyncClient(url, retry=retry, fallback_model=fallback_model) as client:
                return [piece async for piece in client.stream("Hi", **options)]
        return asyncio.run(read())


@pytest.fixture(params=[Sync, Async])
def api(request):
    return request.param()


def text(chunks):
    return "".join(piece.text for piece in chunks)


def test_a_stream_that_could_not_begin_is_begun_again_under_its_id(api):
    with serve(after([failure(FULL.format(0))], [])) as triton:
        assert text(api.stream(triton.url, request_id="mine")) == "ab"
        assert [request.id for request in triton.requests] == ["mine"] * 3


def test_a_hint_that_is_too_long_is_the_callers(api):
    with serve(after([failure(FULL.format(9))])) as triton:
        with pytest.raises(Unavailable) as caught:
            api.stream(triton.url)
        assert caught.value.retry_after_s == 9
        assert len(triton.requests) == 1


def test_a_stream_that_has_begun_is_not_begun_again(api):
    with serve(after([chunk("x"), failure("UNAVAILABLE: the engine was lost")])) as triton:
        with pytest.raises(Unavailable, match="lost"):
            api.stream(triton.url)
        assert len(triton.requests) == 1


def test_it_is_begun_again_if_the_caller_allows_it(api):
    retry = Retry(after_first_token=True)
    broken = [chunk("x"), chunk("y", index=1), failure("UNAVAILABLE: the engine was lost")]
    with serve(after(broken, broken)) as triton:
        chunks = api.stream(triton.url, retry=retry)
        assert [(piece.text, piece.index) for piece in chunks] == [
            ("x", 0), ("y", 1), ("x", 0), ("y", 1), ("a", 0), ("b", 1)]
    with serve(after(broken, broken, broken)) as triton:
        with pytest.raises(Unavailable, match="lost"):
            api.stream(triton.url, retry=retry)
        assert len(triton.requests) == 3


def test_other_errors_are_raised_at_once(api):
    with serve(after([failure("INTERNAL: a bug")])) as triton:
        with pytest.raises(EngineFailure):
            api.stream(triton.url)
        assert len(triton.requests) == 1


def by_model(scripts):
    return lambda request, context: iter(scripts[request.model_name])


@pytest.mark.parametrize("message", ["UNAVAILABLE: it is loading", "NOT_FOUND: no such model"])
def test_a_model_that_cannot_be_had_gives_way_to_the_fallback(api, message):
    answer = chunk("small", finish_reason="stop", is_final=True)
    with serve(by_model({"generate": [failure(message)], "small": [answer]})) as triton:
        assert text(api.stream(triton.url, fallback_model="small")) == "small"
        assert triton.requests[-1].id == triton.requests[0].id


def test_an_answer_names_the_model_that_gave_it():
    answer = chunk("small", finish_reason="stop", is_final=True)
    with serve(by_model({"generate": [failure("NOT_FOUND: no")], "small": [answer]})) as triton, \
            Client(triton.url, fallback_model="small") as client:
        assert client.generate("Hi").model == "small"


def test_what_the_model_refuses_the_fallback_is_not_asked(api):
    with serve(by_model({"generate": [failure("INVALID_ARG: top_p: 2 is not allowed")]})) as triton:
        with pytest.raises(InvalidArgument):
            api.stream(triton.url, fallback_model="small")
        assert len(triton.requests) == 1


def test_servers_are_told_what_is_left_of_the_time(api):
    with serve(after([failure(FULL.format(1))])) as triton:
        api.stream(triton.url, timeout_s=30)
        first_ms, second_ms = (tensors(request)["timeout_ms"][0][0] for request in triton.requests)
        assert 20_000 < first_ms <= 30_000
        assert 10_000 < second_ms <= first_ms - 1000
        api.stream(triton.url, timeout_s=30, timeout_ms=7)
        assert tensors(triton.requests[-1])["timeout_ms"] == [[7]]
        api.stream(triton.url)
        assert "timeout_ms" not in tensors(triton.requests[-1])


def test_the_end_of_the_calls_time_is_an_error_and_that_of_the_requests_is_not(api):
    with serve(lambda *_: iter([chunk("a", finish_reason="deadline", is_final=True)])) as triton:
        with pytest.raises(DeadlineExceeded, match="30 s"):
            api.stream(triton.url, timeout_s=30)
        assert api.stream(triton.url, timeout_s=30, timeout_ms=7)[-1].finish_reason == "deadline"


def test_who_gives_a_server_little_time_takes_it_from_nobody():
    with serve(slow) as triton, Client(triton.url, retry=Retry(num_tries=1)) as client:
        for _ in range(MAX_FAILURES):
            with pytest.raises(DeadlineExceeded):
                client.generate("Hi", timeout_s=0.05)
        triton.script = lambda *_: iter([chunk("a", finish_reason="stop", is_final=True)])
        assert client.generate("Hi").text == "a"


def test_a_server_that_hangs_is_left_alone(monkeypatch):
    monkeypatch.setattr(attempts, "MIN_PATIENCE_S", 0.05)
    with serve(slow) as triton, Client(triton.url, retry=Retry(num_tries=1)) as client:
        for _ in range(MAX_FAILURES):
            with pytest.raises(DeadlineExceeded):
                client.generate("Hi", timeout_s=0.1)
        with pytest.raises(Unavailable, match="has failed again and again"):
            client.generate("Hi")


def slow(request, context):
    """Says nothing while anybody waits."""
    while context.is_active():
        time.sleep(0.01)
    yield empty_final()


def test_an_endless_time_is_none():
    assert Deadline(math.inf).timeout_ms(7) == 7


def cancel_once_asked(triton, stream):
    while not triton.requests:
        time.sleep(0.01)
    time.sleep(SOON_S)
    stream.cancel()


async def cancel_task_once_asked(triton, stream):
    await until(lambda: triton.requests, "no request")
    await asyncio.sleep(SOON_S)
    await stream.cancel()


def test_a_cancel_ends_the_wait_for_the_next_try():
    with serve(lambda *_: iter([failure(FULL.format(60))])) as triton, \
            Client(triton.url, retry=Retry(max_wait_s=100)) as client:
        stream = client.stream("Hi")
        threading.Thread(target=cancel_once_asked, args=(triton, stream)).start()
        assert list(stream) == []
        assert len(triton.requests) == 1


async def test_a_cancel_from_another_task_ends_the_wait_for_the_next_try():
    with serve(lambda *_: iter([failure(FULL.format(60))])) as triton:
        async with AsyncClient(triton.url, retry=Retry(max_wait_s=100)) as client:
            stream = client.stream("Hi")
            canceller = asyncio.create_task(cancel_task_once_asked(triton, stream))
            assert [piece async for piece in stream] == []
            await canceller
            assert len(triton.requests) == 1


def test_an_answer_that_is_over_is_over(api):
    with serve(lambda *_: iter([empty_final()])) as triton:
        assert api.stream(triton.url) == []
        assert len(triton.requests) == 1
