"""Clients that do not read: nobody else is slowed, and what they hold is bounded.

A model does not see that nobody reads: Triton takes its responses and keeps them for the client.
So a request's limit of output tokens is what bounds the memory that it can take there.
"""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import ExitStack, asynccontextmanager
from urllib.parse import urlsplit

import grpc
import psutil
import pytest
from tests.drills.load import counted, settled
from tests.drills.waiting import until
from tests.metrics import total
from tritonclient.grpc import service_pb2_grpc

from tritonlm.bench.asks import Ask
from tritonlm.bench.grpc_client import inference_request
from tritonlm.bench.load import Load
from tritonlm.bench.processes import measure
from tritonlm.bench.summary import Summary

NUM_FAST = 50
NUM_SLOW = 50
NUM_TOKENS = 1_000
"""Of each slow reader."""
MAX_BYTES_PER_TOKEN = 2048
"""That Triton keeps of an unread response; the fewer tokens are sent together, the more of each."""
MIB = 2**20
NUM_TRIES = 3
"""A machine that does other work is slow now and then; a server that is held up is each time."""


@pytest.fixture(scope="module")
def server(start_echo):
    return start_echo(step_ms=4, front_ends=1, max_num_seqs=NUM_FAST + NUM_SLOW)


def fast_readers(server):
    """The speed of some seconds of streams that are read at once."""
    load = Load(url=server.grpc_url, num_prompts=4 * NUM_FAST, max_concurrency=NUM_FAST,
                input_len=16, output_len=100, ignore_eos=True, seed=1, num_warmups=0)
    return Summary.of(measure(load, 2))


@asynccontextmanager
async def http_slow_readers(server):
    """Connections that have sent a request and read nothing."""
    address = urlsplit(server.http_url)
    body = json.dumps({"input_ids": [5] * 16, "max_tokens": NUM_TOKENS, "stream": True}).encode()
    head = (f"POST /v2/models/generate/generate_stream HTTP/1.1\r\nHost: {address.netloc}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n")
    with ExitStack() as connections:
        for _ in range(NUM_SLOW):
            connection = connections.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect((address.hostname, address.port))
            connection.sendall(head.encode() + body)
        yield


@asynccontextmanager
async def grpc_slow_readers(server):
    """Calls that have sent a request and read nothing."""
    request = inference_request(Load(ignore_eos=True), Ask((5,) * 16, NUM_TOKENS))
    async with grpc.aio.insecure_channel(server.grpc_url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        calls = [stub.ModelStreamInfer() for _ in range(NUM_SLOW)]
        for call in calls:
            await call.write(request)
        yield


async def until_running(server, number):
    await until(lambda: total(server.metrics_url, "tritonlm_requests_running") == number,
                lambda: total(server.metrics_url, "tritonlm_requests_running"))


@pytest.mark.parametrize("slow_readers", [http_slow_readers, grpc_slow_readers])
async def test_those_who_read_are_not_slowed_by_those_who_do_not(server, slow_readers):
    for _ in range(NUM_TRIES):
        alone = await asyncio.to_thread(fast_readers, server)
        async with slow_readers(server):
            await until_running(server, NUM_SLOW)
            beside = await asyncio.to_thread(fast_readers, server)
        assert (alone.num_failed, beside.num_failed) == (0, 0)
        await until_running(server, 0)
        if (beside.output_tokens_per_s > alone.output_tokens_per_s / 2
                and beside.ttft_ms.median < 2 * alone.ttft_ms.median + 50):
            return
    pytest.fail(f"alone: {alone}; beside slow readers: {beside}")


@pytest.mark.parametrize("slow_readers", [http_slow_readers, grpc_slow_readers])
async def test_what_is_not_read_takes_bounded_memory_once(server, slow_readers):
    process, sizes = psutil.Process(server.pid), []
    for _ in range(2):
        before = (await settled(server.metrics_url)).total()
        sizes.append(process.memory_info().rss)
        async with slow_readers(server):
            await until(lambda before=before: counted(server.metrics_url).total()
                        == before + NUM_SLOW, "a slow reader holds up its request")
            sizes.append(process.memory_info().rss)
    first, full, _, again = sizes
    assert full - first < NUM_SLOW * NUM_TOKENS * MAX_BYTES_PER_TOKEN
    assert again - full < 16 * MIB, "what was freed is not used again"
