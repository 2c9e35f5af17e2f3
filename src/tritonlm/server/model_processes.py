"""Which process of a run belongs to which of Triton's models."""

from __future__ import annotations

from pathlib import Path

import psutil

from tritonlm.manager.control import ModelProcess
from tritonlm.server import processes


def find(run_dir: Path) -> list[ModelProcess]:
    """The processes of all models: those that run their code, and the engines of these."""
    found = (_model_process(process, run_dir) for process in processes.find(run_dir))
    return [each for each in found if each is not None]


def _model_process(process: psutil.Process, run_dir: Path) -> ModelProcess | None:
    """A stub's first argument is `.../NAME/1/model.py`; an engine has a folder `RUN/NAME-1/0`."""
    try:
        arguments = [Path(text) for text in process.cmdline()[1:] if text.startswith("/")]
    except psutil.Error:
        return None
    for path in arguments:
        if path.name == "model.py":
            return ModelProcess(path.parts[-3], int(path.parts[-2]), True, process)
        if path.is_relative_to(run_dir):
            model, dash, version = path.relative_to(run_dir).parts[0].rpartition("-")
            if dash and version.isdecimal():
                return ModelProcess(model, int(version), False, process)
    return None
