"""Answers of tasks from the cache."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import aiohttp
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from tests.drills.waiting import until

from tritonlm.caching.memory_level import MemoryLevel
from tritonlm.caching.response_cache import ResponseCache
from tritonlm.errors import InvalidArgument
from tritonlm.gateway.body import json_object
from tritonlm.gateway.cached_answers import AnswerCache, note_wish
from tritonlm.gateway.cached_bodies import task_response
from tritonlm.gateway.openai.embeddings import EmbeddingsBody
from tritonlm.gateway.usage import Usage


class Embeddings:
    """An endpoint whose servers are this object: it counts what it computes."""

    def __init__(self):
        self.num_computed = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.identities = ["embed:1"]
        self.usages = []

    def identity(self, _model):
        return self.identities

    async def compute(self):
        self.num_computed += 1
        await self.may_answer.wait()
        return {"data": [0.5], "usage": {"prompt_tokens": 7, "total_tokens": 7}}

    async def endpoint(self, request):
        given = json_object(await request.body())
        note_wish(request, given)
        self.usages.append(Usage())
        try:
            return await task_response(request, self, EmbeddingsBody(**given), self.compute,
                                       self.usages[-1])
        except InvalidArgument as error:
            return PlainTextResponse(error.message, 400)


@asynccontextmanager
async def lifespan(_):
    yield {"cache": AnswerCache(ResponseCache([MemoryLevel(1 << 20)], 60.0))}


@pytest.fixture
async def served():
    embeddings = Embeddings()
    app = Starlette(routes=[Route("/e", embeddings.endpoint, methods=["POST"])],
                    lifespan=lifespan)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="on"))
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started or serving.done(), "not started")
    embeddings.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/e"
    yield embeddings
    server.should_exit = True
    await serving


async def post(embeddings, **body):
    async with aiohttp.ClientSession() as http, http.post(
            embeddings.url, json={"model": "embed", "input": "Hi"} | body) as answer:
        return answer.headers["x-tritonlm-cache"], await answer.json()


async def test_what_was_asked_before_is_answered_from_the_cache(served):
    first, again = await post(served), await post(served, user="b", priority="low")
    assert (first[0], again[0]) == ("miss", "hit")
    assert first[1] == again[1]
    assert served.num_computed == 1
    assert [usage.num_input_tokens for usage in served.usages] == [7, 7]


@pytest.mark.parametrize("other", [{"priority": "nope"}, {"timeout_ms": 0}])
async def test_what_is_refused_is_refused_also_beside_an_answer_that_is_kept(served, other):
    await post(served)
    async with aiohttp.ClientSession() as http, http.post(
            served.url, json={"model": "embed", "input": "Hi"} | other) as answer:
        assert answer.status == 400


@pytest.mark.parametrize("other", [{"input": "Ho"}, {"dimensions": 8}, {"cache": False}])
async def test_what_differs_is_computed(served, other):
    await post(served)
    assert (await post(served, **other))[0] in {"miss", "bypass"}
    assert served.num_computed == 2


async def test_another_version_is_another_key_and_none_is_not_kept(served):
    assert (await post(served))[0] == "miss"
    served.identities = ["embed:2"]
    assert (await post(served))[0] == "miss"
    served.identities = []
    assert [(await post(served))[0] for _ in range(2)] == ["bypass"] * 2
    assert served.num_computed == 4


async def test_calls_that_have_not_the_same_time_are_computed_apart(served):
    served.may_answer.clear()
    tasks = [asyncio.create_task(post(served, timeout_ms=timeout_ms))
             for timeout_ms in (None, 10_000)]
    await until(lambda: served.num_computed == 2, "they share work")
    served.may_answer.set()
    assert [state for state, _ in await asyncio.gather(*tasks)] == ["miss"] * 2


async def test_equal_calls_at_once_are_computed_once(served):
    served.may_answer.clear()
    tasks = [asyncio.create_task(post(served)) for _ in range(5)]
    await until(lambda: len(served.usages) == 5, "they have not come")
    served.may_answer.set()
    states = [state for state, _ in await asyncio.gather(*tasks)]
    assert sorted(states) == ["miss"] + ["shared"] * 4
    assert served.num_computed == 1
