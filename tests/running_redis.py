"""A real Redis of our own, which listens at a socket in a folder."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LIMIT_S = 60


@contextmanager
def running_redis(folder: Path) -> Iterator[str]:
    """Its URL, from when it answers until the end of the block."""
    path, log = folder / "s", folder / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", str(path), "--save", "", "--dir",
             str(folder)], stdout=file, stderr=file)
    try:
        deadline_s = time.monotonic() + LIMIT_S
        while not _is_listening(path):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline_s, log.read_text()
            time.sleep(0.02)
        yield f"unix://{path}"
    finally:
        process.kill()  # it keeps nothing
        process.wait(LIMIT_S)


def _is_listening(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as attempt:
        return attempt.connect_ex(str(path)) == 0
