"""A real tritonserver of a store whose models are echoes, with its manager."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from tests.fakes.echo_engine import STEP_MS_VARIABLE
from tests.fakes.echo_server import PATCH, ROOT

from tritonlm.config import DEMO_CHECKPOINT, ModelConfig
from tritonlm.manager.limits import Limits
from tritonlm.server import launcher, manager_thread, model_store, processes
from tritonlm.server.manager_thread import ManagerStart
from tritonlm.server.model_store import ModelStore
from tritonlm.server.settings import ServerSettings
from tritonlm.server.tritonserver import TritonServer


@dataclass(frozen=True)
class EchoStore:
    """What a test needs to know of it."""

    server: TritonServer
    store: ModelStore
    manager_port: int

    def add(self, name: str, version: int = 1, **config: Any) -> None:
        add(self.store, name, version, **config)


def add(store: ModelStore, name: str, version: int = 1, **config: Any) -> None:
    """Add a model that generates; `config` are fields of `ModelConfig`."""
    settings = {"model": str(DEMO_CHECKPOINT), "device": "cpu", "kv_cache_gib": 0.1} | config
    store.add(name, "generate", ModelConfig(**settings), version)


@contextmanager
def echo_store(
    models: dict[str, dict[str, Any]], limits: Limits, step_ms: float = 20
) -> Iterator[EchoStore]:
    """A ready server of `models`, by name with fields of their `ModelConfig`; none is loaded."""
    with (tempfile.TemporaryDirectory() as folder,
          mock.patch.dict(os.environ, {STEP_MS_VARIABLE: str(step_ms)})):
        sources = tuple(Path(shutil.copytree(source, Path(folder, source.name)))
                        for source in model_store.SOURCES)
        for model in sources[0].glob("*/1/model.py"):
            model.write_text(model.read_text() + PATCH.format(root=str(ROOT)))
        store = ModelStore(Path(folder, "store"))
        with mock.patch.object(model_store, "SOURCES", sources):
            for name, config in models.items():
                add(store, name, **config)
            plan = launcher.prepare_store(ServerSettings(
                http_port=0, grpc_port=0, metrics_port=0, exit_timeout_s=2), store.folder)
            start = ManagerStart(manager_port=0).with_port(plan.settings)
            with launcher.launch(plan, print) as server:
                with manager_thread.running(server, plan.settings.host, store, limits, start):
                    yield EchoStore(server, store, start.manager_port)
                processes.stop(server.run_dir, 0)
