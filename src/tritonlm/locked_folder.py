"""Private folders of processes that may be killed: what they leave, the next one finds.

A folder is locked for as long as a process holds it; the kernel frees the lock, however that ends.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tritonlm.errors import StartFailure

LOCK_NAME = "run.lock"


@contextmanager
def base_folder() -> Iterator[Path]:
    """Where this user's folders are, while nobody else makes or sweeps one.

    Raises `StartFailure` where there can be none.
    """
    base = Path(tempfile.gettempdir(), f"tritonlm-{os.getuid()}")
    try:
        base.mkdir(mode=0o700, exist_ok=True)
        if base.stat().st_uid != os.getuid():
            raise StartFailure(f"{base} belongs to another user: set TMPDIR to a folder of yours")
        descriptor = os.open(base, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield base
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StartFailure(f"{base}: {error.strerror}; TMPDIR may name another place") from None


def create(base: Path, prefix: str = "") -> tuple[Path, int]:
    """A new folder of mode 0700 in `base`, and the descriptor that holds it."""
    path = Path(tempfile.mkdtemp(dir=base, prefix=prefix))
    return path, _hold(path)


def abandoned(base: Path, prefix: str = "") -> Iterator[Path]:
    """The folders of `base` that nobody holds."""
    for lock_path in base.glob(f"{prefix}*/{LOCK_NAME}"):
        with suppress(FileNotFoundError), lock_path.open() as lock:  # its holder may delete it now
            if _is_only_holder(lock.fileno()):
                yield lock_path.parent


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a folder, which whoever leaves it last deletes."""
    lock = _hold(path)
    try:
        yield
    finally:
        leave(path, lock)


def leave(path: Path, lock: int) -> None:
    """Hold a folder no longer; the last one deletes it."""
    if _is_only_holder(lock):
        shutil.rmtree(path, ignore_errors=True)
    os.close(lock)


def _hold(path: Path) -> int:
    lock = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_SH)
    return lock


def _is_only_holder(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
