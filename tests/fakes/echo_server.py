"""A real tritonserver whose engine is an echo."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from tests.fakes.echo_engine import STEP_MS_VARIABLE

from tritonlm.config import ModelConfig
from tritonlm.server import launcher, processes, repository
from tritonlm.server.settings import ServerSettings
from tritonlm.server.tritonserver import TritonServer

ROOT = Path(__file__).parents[2]
PATCH = """
import os
from tritonlm.engine import worker_command
os.environ["PYTHONPATH"] = {root!r}
worker_command.MODULE = "tests.fakes.echo_engine"
"""


@contextmanager
def echo_server(
    settings: ServerSettings, step_ms: float, ends_at_once: bool = True, **config: Any
) -> Iterator[TritonServer]:
    """A ready server; `config` are fields of `ModelConfig`. It is killed, or else told to stop."""
    plan = launcher.prepare(settings, ModelConfig(device="cpu", **config))
    with (tempfile.TemporaryDirectory() as folder,
          mock.patch.dict(os.environ, {STEP_MS_VARIABLE: str(step_ms)})):
        sources = [shutil.copytree(source, Path(folder, source.name))
                   for source in repository.REPOSITORIES]
        for model in sources[0].glob("*/1/model.py"):
            model.write_text(model.read_text() + PATCH.format(root=str(ROOT)))
        with launcher.launch(plan, print, tuple(Path(source) for source in sources)) as server:
            yield server
            if ends_at_once:
                processes.stop(server.run_dir, 0)
