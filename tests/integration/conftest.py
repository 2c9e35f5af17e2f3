"""Real servers for tests, on free ports; each is stopped, with all its processes, in any case."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import fields
from typing import Any

import pytest

from tritonlm.config import ModelConfig
from tritonlm.server import launcher
from tritonlm.server.settings import ServerSettings
from tritonlm.server.tritonserver import TritonServer

StartServer = Callable[..., TritonServer]
FOR_TESTS = {"http_port": 0, "grpc_port": 0, "metrics_port": 0, "exit_timeout_s": 3,
             "device": "cpu", "kv_cache_gib": 0.25}


@pytest.fixture(scope="module")
def start_server() -> Iterator[StartServer]:
    """Start a server with the given fields of `ServerSettings` and `ModelConfig`.

    It stops with the module. What it has: `http_url`, `grpc_url`, `metrics_url`, `pid`, `run_dir`
    and `log_path`.
    """
    server_fields = {field.name for field in fields(ServerSettings)}
    with ExitStack() as running:
        def start(**given: Any) -> TritonServer:
            values = FOR_TESTS | given
            plan = launcher.prepare(
                ServerSettings(**{k: v for k, v in values.items() if k in server_fields}),
                ModelConfig(**{k: v for k, v in values.items() if k not in server_fields}))
            return running.enter_context(launcher.launch(plan, print))
        yield start


@pytest.fixture(scope="module")
def demo_server(start_server: StartServer) -> TritonServer:
    """A server of the demo checkpoint."""
    return start_server()
