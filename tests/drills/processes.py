"""Processes that tests strike, and whether they are gone."""

from __future__ import annotations

from pathlib import Path

import psutil

from tritonlm.server import processes


def has_ended(process: psutil.Process) -> bool:
    """Whether it runs no more, though nobody may have taken note of its end yet."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def engines(run_dir: Path) -> list[psutil.Process]:
    """The real engines of a run."""
    return [process for process in processes.find(run_dir)
            if "tritonlm.engine.worker" in _command(process)]


def echo_engines(run_dir: Path) -> dict[int, psutil.Process]:
    """The engines of a run, by their number."""
    found = {}
    for process in processes.find(run_dir):
        command = _command(process)
        if "tests.fakes.echo_engine" in command:
            found[int(command[-1])] = process
    return found


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []
