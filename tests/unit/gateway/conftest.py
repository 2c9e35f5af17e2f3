"""A gateway in the test's event loop, before a fake server."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvicorn
from tests.drills.waiting import until
from tests.fakes.many_requests_triton import serve

from tritonlm.gateway.app import create_app
from tritonlm.gateway.http_protocol import HttpProtocol
from tritonlm.gateway.settings import GatewaySettings


@asynccontextmanager
async def running(settings, folder):
    """The base of the gateway's URLs; what its workers share is in `folder`, and goes with it."""
    shared = Path(tempfile.mkdtemp(dir=folder))
    config = uvicorn.Config(create_app(settings, shared), port=0, log_level="warning",
                            lifespan="on", http=HttpProtocol, ws="websockets-sansio",
                            timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started or serving.done(), "not started")
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await serving


@pytest.fixture
def gateway(tmp_path):
    """`async with gateway(script, **settings) as (url, server)`."""
    @asynccontextmanager
    async def start(script, **settings):
        async with serve(script) as server, running(
                GatewaySettings(servers=server.url, **settings), tmp_path) as url:
            yield url, server
    return start
