"""Models that come and go leave nothing: no process, and no memory of the server."""

from __future__ import annotations

import asyncio
import json

import psutil
import pytest
from tests.drills.load import STREAM, connect
from tests.fakes.echo_store import echo_store

from tritonlm.manager.client import ManagerClient
from tritonlm.manager.limits import Limits
from tritonlm.server import model_processes

NUM_CYCLES = 10
WARM_UP = 2
"""Cycles in which the server's allocators and threads come to their size."""
MAX_GROWTH_MIB = 8


@pytest.mark.timeout(300)
@pytest.mark.drill
async def test_loading_and_unloading_after_streams_leaves_no_memory_and_no_process():
    resident_mib = []
    with echo_store({"alpha": {}}, Limits(), step_ms=2) as served:
        tritonserver = psutil.Process(served.server.pid)
        async with ManagerClient("localhost", served.manager_port) as manager, connect() as session:
            for _ in range(NUM_CYCLES):
                await manager.do("load", "alpha")
                await asyncio.gather(*(_stream(session, served.server.http_url)
                                       for _ in range(32)))
                await manager.do("unload", "alpha")
                assert model_processes.find(served.server.run_dir) == []
                resident_mib.append(tritonserver.memory_info().rss / 2**20)
    assert resident_mib[-1] - resident_mib[WARM_UP - 1] < MAX_GROWTH_MIB, resident_mib


async def _stream(session, url):
    async with session.post(f"{url}/v2/models/alpha/generate_stream",
                            json=STREAM | {"max_tokens": 100}) as answer:
        events = [json.loads(line.removeprefix(b"data: ")) async for line in answer.content
                  if line.startswith(b"data: ")]
    assert events[-1]["finish_reason"] == "length"
