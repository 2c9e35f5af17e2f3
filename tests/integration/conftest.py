"""Real servers for tests, on free ports; each is stopped, with all its processes, in any case."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from typing import Any

import openai
import pytest
from tests.integration.gateway import address_of, running_gateway

from tritonlm.config import DEMO_CHECKPOINT, ModelConfig
from tritonlm.server import launcher, processes
from tritonlm.server.settings import ServerSettings
from tritonlm.server.tritonserver import TritonServer

StartServer = Callable[..., TritonServer]
FOR_TESTS = {"http_port": 0, "grpc_port": 0, "metrics_port": 0, "exit_timeout_s": 3,
             "device": "cpu", "kv_cache_gib": 0.25}
SERVER_FIELDS = {field.name for field in fields(ServerSettings)}


@contextmanager
def running_server(**given: Any) -> Iterator[TritonServer]:
    """A server with the given fields of `ServerSettings` and `ModelConfig`."""
    values = FOR_TESTS | given
    plan = launcher.prepare(
        ServerSettings(**{k: v for k, v in values.items() if k in SERVER_FIELDS}),
        ModelConfig(**{k: v for k, v in values.items() if k not in SERVER_FIELDS}))
    with launcher.launch(plan, print) as server:
        yield server
        processes.stop(server.run_dir, 0)  # to unload its models would take seconds


@pytest.fixture(scope="module")
def start_server() -> Iterator[StartServer]:
    """Start a server as `running_server` does; it stops with the module.

    What it has: `http_url`, `grpc_url`, `metrics_url`, `pid`, `run_dir` and `log_path`.
    """
    with ExitStack() as running:
        yield lambda **given: running.enter_context(running_server(**given))


@pytest.fixture(scope="session")
def demo_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A server that modules share: each sees the end of what it asks.

    It has the demo checkpoint, whose chat template tells of tools, too.
    """
    checkpoint = tmp_path_factory.mktemp("checkpoint") / "demo"
    shutil.copytree(DEMO_CHECKPOINT, checkpoint)
    template = checkpoint / "chat_template.jinja"
    template.write_text("{% if tools %}{{ tools | tojson }}{% endif %}" + template.read_text())
    with running_server(model=str(checkpoint), max_sequences=8) as server:
        yield server


@pytest.fixture(scope="session")
def url(demo_server: TritonServer) -> str:
    """Where the demo server speaks gRPC."""
    return demo_server.grpc_url


@pytest.fixture(scope="session")
def http_url(demo_server: TritonServer) -> str:
    """Where it speaks HTTP."""
    return demo_server.http_url


@pytest.fixture(scope="session")
def demo_gateway(demo_server: TritonServer) -> Iterator[str]:
    """The URL of a gateway before the demo server, which modules share as well."""
    with running_gateway(address_of(demo_server), "--model-names", "demo=generate",
                         "--tool-parser", "hermes") as url:
        yield url


@pytest.fixture(scope="session")
def demo_sdk(demo_gateway: str) -> Iterator[openai.OpenAI]:
    """OpenAI's own library, which asks that gateway."""
    with openai.OpenAI(base_url=f"{demo_gateway}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk
