"""The folder of one run of a server: repositories, sockets and log, gone when the run is over.

It is locked for as long as the launcher or its reaper lives, so that a later run can tell what was
left over by one that was killed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tritonlm.errors import StartFailure

LOCK_NAME = "run.lock"
LOG_NAME = "server.log"
SHARED_MEMORY = Path("/dev/shm")
KEPT_LOG_AGE_S = 24 * 3600
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
    base = Path(tempfile.gettempdir(), f"tritonlm-{os.getuid()}")
    try:
        base.mkdir(mode=0o700, exist_ok=True)
        if base.stat().st_uid != os.getuid():
            raise StartFailure(f"{base} belongs to another user: set TMPDIR to a folder of yours")
        with _locked(base):
            _sweep(base)
            path = Path(tempfile.mkdtemp(dir=base, prefix=""))
            lock = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        raise StartFailure(f"{base}: {error.strerror}; TMPDIR may name another place") from None
    if len(str(path)) > MAX_PATH_CHARS:
        remove(path)
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
    for lock_path in base.glob(f"*/{LOCK_NAME}"):
        with lock_path.open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            remove(lock_path.parent)
    for log in base.glob("*.log"):
        if time.time() - log.stat().st_mtime > KEPT_LOG_AGE_S:
            log.unlink(missing_ok=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other launchers from sweeping a folder that is made but not yet locked."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
