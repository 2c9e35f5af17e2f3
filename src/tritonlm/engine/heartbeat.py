"""A sign of life that other processes see, whatever holds this one up: a counter in a file."""

from __future__ import annotations

import os
import sys
from pathlib import Path

COUNT_BYTES = 8


class Heartbeat:
    """Counts in the file at `path`, which is made."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._count = 0

    def beat(self) -> None:
        """Count one; takes a microsecond."""
        self._count += 1
        os.pwrite(self._descriptor, self._count.to_bytes(COUNT_BYTES, sys.byteorder), 0)


def read(path: Path) -> int:
    """How often the heart has beaten; 0 before the first time."""
    try:
        return int.from_bytes(path.read_bytes(), sys.byteorder)
    except FileNotFoundError:
        return 0
