"""The `diagnose` command: a sample of requests, and where their time goes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import TimeElapsedColumn
from rich.table import Table

from tritonlm.commands.connection import connect, no_server
from tritonlm.commands.options import DEFAULT_MODEL, DEFAULT_URL, Json, Model, Url
from tritonlm.commands.terminal import progress_bar
from tritonlm.commands.top import read_page
from tritonlm.errors import ServingError, Unavailable
from tritonlm.observability.diagnosis import MIB, Diagnosis, Sample, growths
from tritonlm.observability.page import Page
from tritonlm_client import Client

NUM_PARTS = 4
"""Of the sample: memory is looked at between them."""


def diagnose(
    url: Url = DEFAULT_URL,
    model: Model = DEFAULT_MODEL,
    metrics: Annotated[str, typer.Option(
        help="Host and metrics port of the server, for its memory; empty: leave that out.",
    )] = "localhost:8002",
    requests: Annotated[int, typer.Option(help="Requests to send.", min=1)] = 50,
    concurrency: Annotated[int, typer.Option(help="Requests at a time.", min=1)] = 4,
    prompt: Annotated[str, typer.Option(help="The text to go on from.")] = "Once upon a time",
    max_tokens: Annotated[int, typer.Option(help="Output tokens of each.", min=1)] = 64,
    as_json: Json = False,
) -> None:
    """Send a sample of requests, and say where their time goes and whether memory grows."""
    with connect(url, model) as client:
        if not client.is_live():
            raise no_server(url)

        def ask() -> Sample | str:
            return _ask(client, prompt, max_tokens)

        answers, pages = _gather(ask, requests, concurrency, metrics)
    found = Diagnosis([one for one in answers if isinstance(one, Sample)],
                      [one for one in answers if isinstance(one, str)],
                      growths(pages) if pages else [])
    if not found.samples:
        raise Unavailable(next(found.verdict()))
    if as_json:
        typer.echo(_json(found))
    else:
        _print(found, Console())


def _ask(client: Client, prompt: str, max_tokens: int) -> Sample | str:
    """What became of one request, or why nothing did."""
    began_s = time.monotonic()
    told = None
    try:
        with client.stream(prompt, max_tokens=max_tokens, return_perf_metrics=True) as chunks:
            for chunk in chunks:
                told = chunk.perf_metrics or told
    except ServingError as error:
        return error.message
    return Sample(time.monotonic() - began_s, told) if told else "the answer has no perf_metrics"


def _gather(
    ask: Callable[[], Sample | str], requests: int, concurrency: int, metrics: str
) -> tuple[list[Sample | str], list[Page]]:
    """What became of the requests, and the pages of metrics before, amid and after them."""
    answers: list[Sample | str] = []
    with ThreadPoolExecutor(concurrency) as asking, progress_bar(TimeElapsedColumn()) as bar:
        task = bar.add_task("asking", total=requests)
        asking.submit(ask).result()  # the first one finds nothing ready
        pages = [read_page(metrics)] if metrics else []
        for part in range(NUM_PARTS):
            number = requests * (part + 1) // NUM_PARTS - requests * part // NUM_PARTS
            for done in as_completed([asking.submit(ask) for _ in range(number)]):
                answers.append(done.result())
                bar.advance(task)
            if metrics:
                with suppress(Unavailable):  # it was there before: the server has no time for it
                    pages.append(read_page(metrics))
    return answers, pages


def _json(found: Diagnosis) -> str:
    return json.dumps({
        "stages": [asdict(stage) for stage in found.stages()], "errors": list(found.errors),
        "memory": [asdict(growth) for growth in found.growths],
        "verdict": list(found.verdict())}, indent=2)


def _print(found: Diagnosis, console: Console) -> None:
    table = Table("stage", box=SIMPLE_HEAD)
    for name in ("p50", "p99", "share"):
        table.add_column(name, justify="right")
    for stage in found.stages():
        table.add_row(stage.name, f"{stage.p50_ms:.1f} ms", f"{stage.p99_ms:.1f} ms",
                      f"{100 * stage.share:.0f} %")
    console.print(table)
    console.print(
        f"{len(found.samples)} requests: {found.mean('num_prompt_tokens'):.0f} prompt tokens, "
        f"{found.mean('num_cached_tokens'):.0f} of them cached, "
        f"{found.mean('num_output_tokens'):.0f} output tokens; meanwhile "
        f"{found.mean('detokenize_ms'):.1f} ms to make text and {found.mean('send_ms'):.1f} ms to "
        "send it", highlight=False)
    for growth in found.growths:
        sizes = ", ".join(f"{size / MIB:.0f}" for size in growth.sizes_bytes)
        console.print(f"memory of {growth.owner}: {sizes} MiB", highlight=False)
    for line in found.verdict():
        console.print(f"- {line}", highlight=False)
