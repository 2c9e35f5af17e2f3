"""The queue before a task's model: its bound, its levels, and requests whose time is up in it."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest
import tritonclient.grpc.aio as grpcclient
from inference import tensor
from tests.drills.waiting import until
from tests.integration.gateway import address_of, post, running_gateway
from tests.metrics import samples
from tests.task_checkpoints import save_classifier
from tritonclient.utils import InferenceServerException

from tritonlm.server import queue_policy

QUEUE_SIZE = 16
NUM_WAITING = 12
NUM_ROWS = "tritonlm_task_rows_total"


@pytest.fixture(scope="module")
def server(start_server, tmp_path_factory):
    folder = save_classifier(tmp_path_factory.mktemp("classify"), num_labels=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queue_policy, "QUEUE_POLICY", queue_policy.QUEUE_POLICY.replace(
            "max_queue_size: 1024", f"max_queue_size: {QUEUE_SIZE}"))
        return start_server(front_ends=1, classify_model=str(folder),
                            classify_settings='{"queue_policy": true}')


@pytest.fixture
async def client(server):
    async with grpcclient.InferenceServerClient(server.grpc_url) as client:
        yield client


@pytest.fixture
def url(server):
    with running_gateway(address_of(server)) as url:
        yield url


async def queue(client, number, **options):
    """Requests of 64 rows that wait for each other; when each was answered, and its error."""
    ids = np.full((64, 40), 7, np.int32)  # a text of 40 tokens in each row

    async def one():
        try:
            await client.infer("classify", [tensor("input_ids", ids)], **options)
            return time.monotonic(), ""
        except InferenceServerException as error:
            return time.monotonic(), str(error)
    return await asyncio.gather(*(one() for _ in range(number)))


async def test_a_full_queue_refuses_at_once(client):
    answers = sorted(await queue(client, 2 * QUEUE_SIZE))
    refused = [error for _, error in answers if error]
    assert refused
    assert all("Exceeds maximum queue size" in error for error in refused)
    assert len(refused) <= QUEUE_SIZE
    assert answers[len(refused) // 2][1], "some were computed before the others were refused"


async def test_overdue_requests_are_refused_and_not_computed(server, client):
    def num_rows():
        return sum(value for labels, value in samples(server.metrics_url, NUM_ROWS)
                   if labels["model"] == "classify")

    before = num_rows()
    patient = asyncio.create_task(queue(client, NUM_WAITING))
    await asyncio.sleep(0.05)
    [(_, error)] = await queue(client, 1, timeout=1000)
    assert "Request timeout expired" in error
    assert not any(error for _, error in await patient)
    await until(lambda: num_rows() - before >= NUM_WAITING * 64, num_rows)
    assert num_rows() - before == NUM_WAITING * 64


async def test_the_gateway_answers_in_time_that_there_is_no_time(client, url):
    patient = asyncio.create_task(queue(client, NUM_WAITING))
    await asyncio.sleep(0.05)
    status, got = await asyncio.to_thread(post, f"{url}/v1/classify", {
        "model": "classify", "input": ["a"] * 5, "timeout_ms": 20})
    refused_s = time.monotonic()
    ends = sorted(end_s for end_s, _ in await patient)
    assert (status, got["error"]["code"]) == (503, "unavailable")
    assert "no answer within 20 ms" in got["error"]["message"]
    assert refused_s < ends[-1]


async def test_urgent_requests_overtake_the_others(client):
    low = asyncio.create_task(queue(client, NUM_WAITING, priority=4))
    await asyncio.sleep(0.05)
    [(urgent_s, error)] = await queue(client, 1, priority=1)
    assert not error
    ends = sorted(end_s for end_s, _ in await low)
    assert urgent_s < ends[len(ends) // 2]
