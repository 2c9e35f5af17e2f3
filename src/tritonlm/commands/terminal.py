"""Output to a terminal or a pipe."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn


def write(text: str) -> None:
    """Write `text` at once and exactly: as UTF-8, with no byte changed for the platform."""
    sys.stdout.buffer.write(text.encode())
    sys.stdout.buffer.flush()


def progress_bar(time: ProgressColumn) -> Progress:
    """Bars on stderr that go when they are over; nothing where that is no terminal."""
    console = Console(stderr=True)
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), time,
                    console=console, transient=True, disable=not console.is_terminal)


def end_line() -> None:
    """Put a terminal's cursor on a new line; a pipe gets nothing."""
    if sys.stdout.isatty():
        write("\n")
