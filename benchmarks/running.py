"""Servers and gateways on free ports, for as long as something is measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.report import say
from tritonlm.config import ModelConfig
from tritonlm.server import gateway_process, launcher, ports
from tritonlm.server.settings import ServerSettings
from tritonlm.server.tritonserver import TritonServer

FREE_PORTS = ServerSettings(http_port=0, grpc_port=0, metrics_port=0, exit_timeout_s=2)


@contextmanager
def running_server(
    echo_step_ms: float | None, settings: ServerSettings = FREE_PORTS, **config: Any
) -> Iterator[TritonServer]:
    """A server of the demo model, or of one that repeats the prompt in steps of milliseconds.

    `config` are fields of `ModelConfig`.
    """
    if echo_step_ms is None:
        with launcher.launch(launcher.prepare(settings, ModelConfig(**config)), say) as server:
            yield server
        return
    from tests.fakes.echo_server import echo_server  # noqa: PLC0415 - tests are not installed
    with echo_server(settings, echo_step_ms, **config) as server:
        yield server


@contextmanager
def running_gateway(server: TritonServer, workers: int = 1, **others: Any) -> Iterator[str]:
    """Host and port of a gateway to `server`; `others` are settings of it."""
    port = ports.choose("127.0.0.1", {"--gateway-port": 0})["--gateway-port"]
    settings = dataclasses.replace(
        FREE_PORTS, grpc_port=int(server.grpc_url.rsplit(":", 1)[1]),
        metrics_port=int(server.metrics_url.rsplit(":", 1)[1].partition("/")[0]))
    with gateway_process.running(port, settings, "benchmark", workers, **others):
        yield f"127.0.0.1:{port}"
