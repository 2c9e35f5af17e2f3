"""The processes of a run: whatever was started in an environment that names its run directory.

Groups and sessions do not hold them together, as engines may have their own; the environment does.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil

from tritonlm.config import ENV_PREFIX

RUN_DIR_VARIABLE = f"{ENV_PREFIX}RUN_DIR"
POLL_INTERVAL_S = 0.05


def find(run_dir: Path) -> set[psutil.Process]:
    """The processes of the run that have not ended."""
    return {process for process in psutil.process_iter(["environ"])
            if (process.info["environ"] or {}).get(RUN_DIR_VARIABLE) == str(run_dir)}


def stop(run_dir: Path, grace_s: float) -> None:
    """End the processes of the run: politely, and after `grace_s` by SIGKILL."""
    deadline_s = time.monotonic() + grace_s
    asked: set[psutil.Process] = set()
    while left := find(run_dir):
        if time.monotonic() > deadline_s:
            _signal(left, signal.SIGKILL)
        else:
            _signal(left - asked, signal.SIGTERM)
            asked |= left
        time.sleep(POLL_INTERVAL_S)


def _signal(targets: set[psutil.Process], number: signal.Signals) -> None:
    for process in targets:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            pass
