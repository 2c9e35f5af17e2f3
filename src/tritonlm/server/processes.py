"""The processes of a run: whatever was started in an environment that names its run directory.

Groups and sessions do not hold them together, as engines may have their own; the environment does.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
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


def reap_orphans() -> None:
    """Let go of ended processes that fell to this one, the first of a container, with their parent.

    Nobody else does, and each keeps its number until then. What this one has started leads a
    session, and is waited for by whoever started it.
    """
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess, ProcessLookupError, ChildProcessError):
            if child.status() == psutil.STATUS_ZOMBIE and os.getsid(child.pid) != child.pid:
                os.waitpid(child.pid, os.WNOHANG)


def _signal(targets: set[psutil.Process], number: signal.Signals) -> None:
    for process in targets:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            pass
