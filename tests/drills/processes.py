"""The processes of a server that drills strike."""

from __future__ import annotations

from pathlib import Path

import psutil

from tritonlm.server import processes


def echo_engines(run_dir: Path) -> dict[int, psutil.Process]:
    """The engines of a run, by their number."""
    engines = {}
    for process in processes.find(run_dir):
        try:
            command = process.cmdline()
        except psutil.NoSuchProcess:
            continue
        if "tests.fakes.echo_engine" in command:
            engines[int(command[-1])] = process
    return engines
