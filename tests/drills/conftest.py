"""Servers for drills; each is stopped, with all its processes, in any case."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from tests.fakes.echo_server import echo_server
from tests.serving import Serve

from tritonlm.server.settings import ServerSettings
from tritonlm.server.tritonserver import TritonServer


@pytest.fixture(scope="module")
def start_echo() -> Iterator[Callable[..., TritonServer]]:
    """Start a server whose engines are echoes, with the given fields of `ModelConfig`.

    It stops with the module.
    """
    with ExitStack() as running:
        def start(step_ms: float = 5, front_ends: int = 2, **config: Any) -> TritonServer:
            settings = ServerSettings(http_port=0, grpc_port=0, metrics_port=0, exit_timeout_s=2,
                                      front_ends=front_ends)
            return running.enter_context(echo_server(settings, step_ms, **config))
        yield start


@pytest.fixture
def serve() -> Iterator[Callable[..., Serve]]:
    """Start `tritonlm serve` with options; it is gone after the test."""
    started: list[Serve] = []

    def start(*options: str, **how: Any) -> Serve:
        started.append(Serve(*options, **how))
        return started[-1]

    yield start
    for server in started:
        if server.is_running:
            server.end(signal.SIGINT, signal.SIGINT)
