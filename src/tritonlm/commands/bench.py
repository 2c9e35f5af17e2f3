"""The `bench` command: a load, and what a server's clients see under it."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import TimeElapsedColumn

from tritonlm.bench.goodput import parse_limits
from tritonlm.bench.load import Load
from tritonlm.bench.plotting import check_plot, plot
from tritonlm.bench.processes import Interrupted, measure
from tritonlm.bench.report import as_json, table
from tritonlm.bench.seen import Seen
from tritonlm.bench.summary import Summary
from tritonlm.commands.terminal import progress_bar
from tritonlm.errors import InvalidArgument
from tritonlm.server.flags import option, options_of, settings_of

SET_HERE = {"has_stream_each", "place", "num_processes"}
"""Fields of a load that are no options."""
INTERRUPTED = 130


def bench(**values: Any) -> None:
    """Measure a server that runs: its rates, and latencies as its clients see them.

    Ctrl-C ends it early, with what was measured by then. The exit code is 1 if a request failed.
    """
    load = settings_of(Load, values, SET_HERE)
    limits_ms = parse_limits(values["goodput"] or [])
    json_file, plot_file = values["json_file"], values["plot_file"]
    _check_file("json", json_file)
    _check_file("plot", plot_file)
    if plot_file is not None:
        check_plot(plot_file)
    seen = _measure(load, values["processes"])
    summary = Summary.of(seen, limits_ms)
    if seen:
        Console().print(table(summary))
    if json_file is not None:
        json_file.write_bytes(as_json(load, values["processes"], summary))
    if plot_file is not None:
        plot(seen, plot_file)
    if summary.num_failed:
        typer.echo(f"first error: {summary.first_error}", err=True)
    if len(seen) < load.num_prompts:
        typer.echo(f"stopped after {len(seen):,} of {load.num_prompts:,} requests", err=True)
        raise typer.Exit(INTERRUPTED)
    if summary.num_failed:
        raise typer.Exit(1)


def _check_file(name: str, path: Path | None) -> None:
    """Raise `InvalidArgument` if nothing could be written there, before anything is measured."""
    if path is None:
        return
    folder = path.absolute().parent
    if not folder.is_dir():
        raise InvalidArgument(name, str(path), "its folder must exist")
    if path.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise InvalidArgument(name, str(path), "it must be a file that can be written")


def _measure(load: Load, num_processes: int) -> list[Seen]:
    with progress_bar(TimeElapsedColumn()) as progress:
        task = progress.add_task(f"{load.backend} {load.address}", total=load.num_prompts)
        try:
            return measure(load, num_processes,
                           lambda num_over: progress.update(task, completed=num_over))
        except Interrupted as interrupted:
            return interrupted.seen


bench.__signature__ = inspect.Signature([  # type: ignore[attr-defined]
    *options_of(Load, SET_HERE | {"api_key"}),
    option("api_key", Annotated[str, typer.Option(
        envvar="TRITONLM_API_KEY", help="A key of the gateway's, where it asks for one.")], ""),
    option("goodput", Annotated[list[str] | None, typer.Option(
        metavar="LIMITS", help='What makes a request good: "ttft:200 tpot:20 e2e:5000", ms.')],
        None),
    option("processes", Annotated[int, typer.Option(min=1, help="Client processes.")], 1),
    option("json_file", Annotated[Path | None, typer.Option(
        "--json", metavar="FILE", help="Write the result there.")], None),
    option("plot_file", Annotated[Path | None, typer.Option(
        "--plot", metavar="FILE", help="Draw the latencies there: .png, .svg or .pdf.")], None),
])
