"""The `bench` command: a load, and what a server's clients see under it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tritonlm.bench.goodput import parse_limits
from tritonlm.bench.load import DEFAULT_URLS, Load
from tritonlm.bench.plotting import check_plot, plot
from tritonlm.bench.processes import measure
from tritonlm.bench.report import as_json, table
from tritonlm.bench.seen import Seen
from tritonlm.bench.summary import Summary
from tritonlm.commands.options import DEFAULT_MODEL, Model
from tritonlm.errors import InvalidArgument


def bench(
    backend: Annotated[str, typer.Option(
        help=f"{', '.join(DEFAULT_URLS)}: Triton over gRPC or HTTP, or a gateway.")] = "grpc",
    url: Annotated[str, typer.Option(help="HOST:PORT; the default is the backend's own.")] = "",
    model: Model = DEFAULT_MODEL,
    num_prompts: Annotated[int, typer.Option(help="Requests.")] = 1000,
    request_rate: Annotated[float | None, typer.Option(
        help="Requests a second, at random times; without it, as soon as there is room.")] = None,
    burstiness: Annotated[float, typer.Option(
        help="Of the times: 1 is a Poisson process, less comes in bursts, more evenly.")] = 1.0,
    max_concurrency: Annotated[int | None, typer.Option(help="Requests at a time.")] = None,
    input_len: Annotated[int, typer.Option(help="Tokens of a random prompt.")] = 512,
    output_len: Annotated[int, typer.Option(help="Tokens of an answer.")] = 128,
    range_ratio: Annotated[float, typer.Option(
        help="Lengths differ by up to this share of themselves.")] = 0.0,
    vocab_size: Annotated[int, typer.Option(
        help="Random prompts are ids below it; 0: texts.")] = 256,
    prompts: Annotated[str | None, typer.Option(
        metavar="FILE", help='Prompts instead of random ones: lines {"prompt": TEXT}, each with '
                             '"max_tokens" if it differs.')] = None,
    ignore_eos: Annotated[bool, typer.Option(
        "--ignore-eos", help="Answers are as long as --output-len says.")] = False,
    temperature: Annotated[float, typer.Option(help="Of all requests; 0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of prompts and times.")] = 0,
    num_warmups: Annotated[int, typer.Option(help="Requests before the measured ones.")] = 8,
    goodput: Annotated[list[str] | None, typer.Option(
        metavar="LIMITS", help='What makes a request good: "ttft:200 tpot:20 e2e:5000", ms.',
    )] = None,
    processes: Annotated[int, typer.Option(min=1, help="Client processes.")] = 1,
    api_key: Annotated[str, typer.Option(
        envvar="TRITONLM_API_KEY", help="A key of the gateway's, where it asks for one.")] = "",
    json_file: Annotated[Path | None, typer.Option(
        "--json", metavar="FILE", help="Write the result there.")] = None,
    plot_file: Annotated[Path | None, typer.Option(
        "--plot", metavar="FILE", help="Draw the latencies there: .png, .svg or .pdf.")] = None,
) -> None:
    """Measure a server that runs: its rates, and latencies as its clients see them.

    The exit code is 1 if a request failed.
    """
    load = Load(
        url or DEFAULT_URLS.get(backend, "localhost:0"), backend, model, num_prompts, request_rate,
        burstiness, max_concurrency, input_len, output_len, range_ratio, vocab_size, prompts,
        ignore_eos, temperature, seed, num_warmups, api_key)
    limits_ms = parse_limits(goodput or [])
    for path in (json_file, plot_file):
        _check_folder(path)
    if plot_file is not None:
        check_plot(plot_file)
    seen = _measure(load, processes)
    summary = Summary.of(seen, limits_ms)
    Console().print(table(summary))
    if json_file is not None:
        json_file.write_bytes(as_json(load, processes, summary))
    if plot_file is not None:
        plot(seen, plot_file)
    if summary.num_failed:
        typer.echo(f"first error: {summary.first_error}", err=True)
        raise typer.Exit(1)


def _check_folder(path: Path | None) -> None:
    if path is not None and not path.absolute().parent.is_dir():
        raise InvalidArgument("file", str(path), "its folder must exist")


def _measure(load: Load, num_processes: int) -> list[Seen]:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True,
                  disable=not console.is_terminal) as progress:
        task = progress.add_task(f"{load.backend} {load.address}", total=load.num_requests)
        return measure(load, num_processes,
                       lambda num_over: progress.update(task, completed=num_over))
