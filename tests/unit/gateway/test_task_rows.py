"""Rows that are computed once, by whichever server has room."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from tests.fakes.many_requests_triton import serve

from tritonlm.gateway.connection import TritonConnection
from tritonlm.gateway.settings import GatewaySettings, ServerAddress
from tritonlm.gateway.task_rows import TaskBody, infer_rows

ROWS = [{"text_input": np.array([[b"Hi"]], np.object_)}]


async def test_rows_that_take_long_are_not_taken_for_a_lost_server():
    """A call has no limit of its own: it may queue, and its client says `timeout_ms`."""
    async with serve(None) as server:
        connection = TritonConnection(ServerAddress.parse(server.url), GatewaySettings())
        fleet = SimpleNamespace(resolve=lambda *_: "embed",
                                choose=lambda *_: SimpleNamespace(connection=connection))
        await infer_rows(fleet, "embed", TaskBody(model="embed"), ROWS, ["embedding"])
        await connection.close()
    assert server.timeouts_s == [None]
