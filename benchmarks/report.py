"""Tables for a terminal or a file, and the results as JSON."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rich.table
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Table:
    """Rows of texts under a title; the first column says what a row is."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""

    def markdown(self) -> str:
        """The table in Markdown, numbers to the right."""
        rule = ("---", *["---:"] * (len(self.columns) - 1))
        lines = [f"| {' | '.join(cells)} |" for cells in (self.columns, rule, *self.rows)]
        return "\n".join([f"**{self.title}**", "", *lines, *(["", self.note] * bool(self.note))])


def show(table: Table) -> None:
    """Print `table`: drawn on a terminal, Markdown anywhere else."""
    console = Console()
    if not console.is_terminal:
        console.print(table.markdown() + "\n", markup=False, highlight=False, soft_wrap=True)
        return
    drawn = rich.table.Table(title=table.title, caption=table.note or None)
    for place, column in enumerate(table.columns):
        drawn.add_column(column, justify="right" if place else "left")
    for row in table.rows:
        drawn.add_row(*row)
    console.print(drawn)


def number(value: float) -> str:
    """`value` with three digits, or all those before the point."""
    if abs(value) >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"


def sparkline(values: Sequence[float]) -> str:
    """`values` as a line of bars between the least and the most of them."""
    low, high = min(values), max(values)
    places = [(value - low) / (high - low or 1) * (len(BARS) - 1) for value in values]
    line = "".join(BARS[round(place)] for place in places)
    return f"{number(low)} {line} {number(high)}"


def say(line: str) -> None:
    """Tell how it goes, beside the results."""
    print(line, file=sys.stderr, flush=True)


def progress_bar() -> Progress:
    """Bars on a terminal; nothing anywhere else."""
    console = Console(stderr=True)
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                    TimeElapsedColumn(), console=console, transient=True,
                    disable=not console.is_terminal)


class Results:
    """What has been measured; kept in `path`, if given, after each addition."""

    def __init__(self, path: Path | None, about: dict[str, Any]) -> None:
        self._path = path
        self._about = about
        self._results: dict[str, list[dict[str, Any]]] = defaultdict(list)

    def add(self, kind: str, result: Any) -> None:
        """Keep `result`, a dataclass, among those of its `kind`."""
        self._results[kind].append(dataclasses.asdict(result))
        if self._path is not None:
            self._path.write_text(json.dumps(self._about | self._results, indent=2) + "\n")
