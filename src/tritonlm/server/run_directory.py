"""The folder of one run of a server: repositories, sockets and log, gone when the run is over.

It is locked for as long as the launcher or its reaper lives, so that a later run can tell what was
left over by one that was killed.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tritonlm import locked_folder
from tritonlm.errors import StartFailure
from tritonlm.server import processes

LOG_NAME = "server.log"
SHARED_MEMORY = Path("/dev/shm")
KEPT_LOG_AGE_S = 24 * 3600
ORPHAN_GRACE_S = 3.0
MAX_PATH_CHARS = 64
"""The sockets' paths start with the folder's, and Linux allows them 107 bytes."""


@dataclass(frozen=True)
class RunDirectory:
    """A locked folder of mode 0700."""

    path: Path
    lock: int
    """Descriptor; the lock is free when every copy of it is closed."""

    @property
    def log(self) -> Path:
        """Where the server's output goes."""
        return self.path / LOG_NAME

    @property
    def shared_memory_prefix(self) -> str:
        """How the names of the run's shared memory begin."""
        return _shared_memory_prefix(self.path)

    def keep_log(self) -> Path:
        """Move the log to where it stays for a day; gives its new path."""
        return self.log.rename(self.path.with_suffix(".log"))


def create() -> RunDirectory:
    """A new run directory, after sweeping those of dead runs; raises `StartFailure`."""
    with locked_folder.base_folder() as base:
        _sweep(base)
        path, lock = locked_folder.create(base)
    if len(str(path)) > MAX_PATH_CHARS:
        locked_folder.leave(path, lock)
        raise StartFailure(f"TMPDIR: {tempfile.gettempdir()} is too long for the paths of sockets")
    return RunDirectory(path, lock)


def remove(path: Path) -> None:
    """Delete a run's folder and its shared memory, whatever is still there of them."""
    for memory in SHARED_MEMORY.glob(f"{_shared_memory_prefix(path)}*"):
        memory.unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def _shared_memory_prefix(path: Path) -> str:
    return f"{path.parent.name}-{path.name}-"


def _sweep(base: Path) -> None:
    for path in locked_folder.abandoned(base):
        processes.stop(path, ORPHAN_GRACE_S)  # if launcher and reaper were killed
        remove(path)
    for log in base.glob("*.log"):
        if time.time() - log.stat().st_mtime > KEPT_LOG_AGE_S:
            log.unlink(missing_ok=True)
