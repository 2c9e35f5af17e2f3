"""Cleans up after a launcher, however it ended: `python -m tritonlm.server.reaper RUN_DIR`.

It waits for the end of its standard input, which the kernel closes with the launcher.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tritonlm.errors import StartFailure
from tritonlm.server import environments, processes, run_directory
from tritonlm.server.run_directory import RunDirectory

GRACE_S = 3.0
WAIT_S = 30.0
"""For the reaper to end: a killed process may be held up by its device."""


@contextmanager
def guard(run: RunDirectory) -> Iterator[None]:
    """See to it that nothing of `run` outlives the context, or this process if that is first.

    Raises `StartFailure` if something does.
    """
    reaper = subprocess.Popen(
        [sys.executable, "-m", "tritonlm.server.reaper", str(run.path)],
        stdin=subprocess.PIPE, pass_fds=[run.lock],
        start_new_session=True,  # a terminal's Ctrl-C is for the launcher
    )
    try:
        yield
    finally:
        try:
            reaper.communicate(timeout=WAIT_S)
        except subprocess.TimeoutExpired:
            pass
        os.close(run.lock)
        left = [process.pid for process in processes.find(run.path)]
        if left or run.path.exists():
            raise StartFailure(f"processes {left} and folder {run.path} could not be removed")


def main() -> None:
    """Wait for the launcher's end, then leave nothing of the run."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    run_dir = Path(sys.argv[1])
    sys.stdin.read()
    processes.stop(run_dir, GRACE_S)
    environments.sweep()
    run_directory.remove(run_dir)


if __name__ == "__main__":
    main()
