"""Output to a terminal or a pipe."""

from __future__ import annotations

import sys


def write(text: str) -> None:
    """Write `text` at once and exactly: as UTF-8, with no byte changed for the platform."""
    sys.stdout.buffer.write(text.encode())
    sys.stdout.buffer.flush()


def end_line() -> None:
    """Put a terminal's cursor on a new line; a pipe gets nothing."""
    if sys.stdout.isatty():
        write("\n")
