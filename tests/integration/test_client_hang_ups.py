"""Requests that are cancelled, left or out of time: the server stops working for them."""

import asyncio
import threading

import pytest
from tests.drills.load import counted
from tests.drills.waiting import until
from tests.metrics import settled

from tritonlm_client import AsyncClient, Client, Unavailable

PROMPT = "ROMEO:\nO, "
LONG = {"max_tokens": 800, "ignore_eos": True}


@pytest.fixture
async def until_ended(demo_server):
    """`await until_ended(number)`: so many requests have been given up since the test began."""
    def num_ended():
        counts = counted(demo_server.metrics_url)
        return counts["cancelled"] + counts["deadline"]

    before = await settled(num_ended)
    return lambda number: until(lambda: num_ended() == before + number,
                                lambda: f"{num_ended() - before}, not {number}")


@pytest.mark.parametrize("model", ["generate", "text_generation"])
def test_a_request_is_cancelled_by_its_id(url, model):
    with Client(url, model) as client, Client(url, model) as other:
        stream = client.stream(PROMPT, **LONG)
        chunks = []
        for chunk in stream:
            chunks.append(chunk)
            if chunk.index == 3:
                assert other.cancel(stream.request_id)
        assert chunks[-1].finish_reason == "cancelled"
        assert chunks[-1].num_output_tokens < LONG["max_tokens"]
        assert not other.cancel(stream.request_id)


@pytest.mark.parametrize("model", ["generate", "text_generation"])
async def test_a_hang_up_ends_the_request(url, model, until_ended):
    with Client(url, model) as client:
        read_on, abandoned = (client.stream(PROMPT, **LONG) for _ in range(2))
        for _ in abandoned:
            break
        await until_ended(1)
        assert list(read_on)[-1].finish_reason == "length"


@pytest.mark.parametrize("model", ["generate", "text_generation"])
async def test_a_cancelled_task_ends_the_request(url, model, until_ended):
    async with AsyncClient(url, model) as client:
        has_begun = asyncio.Event()

        async def read():
            async for _ in client.stream(PROMPT, **LONG):
                has_begun.set()

        task = asyncio.create_task(read())
        beside = asyncio.create_task(client.generate(PROMPT, **LONG))
        await has_begun.wait()
        task.cancel()
        await asyncio.wait([task])
        await until_ended(1)
        assert (await beside).finish_reason == "length"


async def test_a_deadline_ends_the_call_and_the_request(url, until_ended):
    with Client(url) as client, pytest.raises(Unavailable, match="Deadline"):
        client.generate(PROMPT, timeout_s=0.5, **LONG)
    await until_ended(1)


@pytest.mark.parametrize("model", ["generate", "text_generation"])
async def test_over_http_a_hang_up_ends_the_request(http_url, model, until_ended):
    with Client(http_url, model) as client:
        for _ in client.stream(PROMPT, **LONG):
            break
        await until_ended(1)
        stream = client.stream(PROMPT, **LONG)
        chunks = iter(stream)
        next(chunks)
        threading.Thread(target=stream.cancel).start()
        assert len(list(chunks)) < 799
        await until_ended(2)


async def test_over_http_a_cancel_from_another_task_ends_the_request(http_url, until_ended):
    async with AsyncClient(http_url) as client:
        stream = client.stream(PROMPT, **LONG)
        chunks = aiter(stream)
        await anext(chunks)
        canceller = asyncio.create_task(stream.cancel())
        assert len([chunk async for chunk in chunks]) < 799
        await canceller
        await until_ended(1)
