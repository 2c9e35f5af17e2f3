"""Where the processes of one served model meet: a folder, and one in it for each engine.

An engine's folder has its socket, a lock, a heartbeat, and why it could not start.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

SERVER_PREFIX = "server-"


@dataclass(frozen=True)
class Endpoint:
    """A private folder shared by engines and front ends."""

    folder: Path

    @classmethod
    def of(cls, run_dir: str | None, model: str, version: str) -> Endpoint:
        """The endpoint of a model's version, made if missing.

        Without `run_dir` it is named after the parent process, the tritonserver that all front
        ends have in common; those of servers that are gone are deleted.
        """
        base = Path(run_dir) if run_dir else _server_folder()
        folder = base / f"{model}-{version}"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return cls(folder)

    def engine(self, index: int) -> Endpoint:
        """The endpoint of one of the model's engines, made if missing."""
        folder = self.folder / str(index)
        folder.mkdir(mode=0o700, exist_ok=True)
        return Endpoint(folder)

    @property
    def address(self) -> str:
        """The engine's ZeroMQ address."""
        return f"ipc://{self.folder / 'engine.sock'}"

    @property
    def heartbeat(self) -> Path:
        """The file that tells whether the engine moves."""
        return self.folder / "engine.heartbeat"

    def try_lock(self) -> int | None:
        """Become the process that keeps the engine: a descriptor to hold, or None if another is.

        The kernel frees the lock when its holder ends, however it ends.
        """
        descriptor = os.open(self.folder / "engine.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC,
                             0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    def write_failure(self, reason: str) -> None:
        """Leave the reason why the engine could not start, for every front end to read."""
        draft = self.folder / f"engine.failure.{os.getpid()}"
        draft.write_text(reason)
        draft.replace(self._failure_path)

    def read_failure(self, since_s: float) -> str | None:
        """Why a start failed after `since_s` of the wall clock; None when none did."""
        try:
            is_news = self._failure_path.stat().st_mtime >= since_s
            return self._failure_path.read_text() if is_news else None
        except FileNotFoundError:
            return None

    @property
    def _failure_path(self) -> Path:
        return self.folder / "engine.failure"


def _server_folder() -> Path:
    base = Path(tempfile.gettempdir(), f"tritonlm-{os.getuid()}")
    for folder in base.glob(f"{SERVER_PREFIX}*"):
        if not Path("/proc", folder.name.removeprefix(SERVER_PREFIX)).exists():
            shutil.rmtree(folder, ignore_errors=True)
    return base / f"{SERVER_PREFIX}{os.getppid()}"
