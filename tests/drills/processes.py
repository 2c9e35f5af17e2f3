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


def running(run_dir: Path, module: str) -> list[psutil.Process]:
    """The processes of a run that run this module."""
    return [process for process in processes.find(run_dir) if module in _command(process)]


def engines(run_dir: Path) -> list[psutil.Process]:
    """The real engines of a run."""
    return running(run_dir, "tritonlm.engine.worker")


def echo_engines(run_dir: Path) -> dict[int, psutil.Process]:
    """The engines of a run, by their number."""
    found = running(run_dir, "tests.fakes.echo_engine")
    return {int(command[-1]): process for process in found if (command := _command(process))}


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []
