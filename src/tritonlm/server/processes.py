"""The processes of a run: whatever was started in an environment that names its run directory.

Groups and sessions do not hold them together, as engines may have their own; the environment does.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from tritonlm.config import ENV_PREFIX

RUN_DIR_VARIABLE = f"{ENV_PREFIX}RUN_DIR"
POLL_INTERVAL_S = 0.05


def find(run_dir: Path) -> list[int]:
    """The ids of the processes of the run, zombies left out."""
    marker = f"{RUN_DIR_VARIABLE}={run_dir}".encode()
    return [int(environ.parent.name) for environ in Path("/proc").glob("[0-9]*/environ")
            if marker in _read(environ).split(b"\0")]


def stop(run_dir: Path, grace_s: float) -> None:
    """End the processes of the run: politely, and after `grace_s` by SIGKILL."""
    _signal(find(run_dir), signal.SIGTERM)
    deadline_s = time.monotonic() + grace_s
    while find(run_dir):
        if time.monotonic() > deadline_s:
            _signal(find(run_dir), signal.SIGKILL)
        time.sleep(POLL_INTERVAL_S)


def _signal(process_ids: list[int], number: signal.Signals) -> None:
    for process_id in process_ids:
        try:
            os.kill(process_id, number)
        except ProcessLookupError:
            pass


def _read(environ: Path) -> bytes:
    try:
        return environ.read_bytes()
    except OSError:  # it has ended, or is another user's
        return b""
