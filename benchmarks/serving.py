"""Speed of a server as its clients see it: `python -m benchmarks.serving`.

Closed loops of token streams over gRPC, from several client processes, against a server that runs
or one that is started for this.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.report import Results, say, show
from benchmarks.serving_table import serving_table
from tritonlm.bench.load import Load
from tritonlm.bench.processes import measure
from tritonlm.bench.summary import Summary

MODELS = ("generate", "text_generation")
NUM_WARM_UP = 2
"""Requests, of each place of the loop, before each measure."""


def main(
    address: Annotated[str, typer.Option(
        help="Host and port of a running server's gRPC; without it a server is started.")] = "",
    model: Annotated[str, typer.Option(
        help=f"One of {', '.join(MODELS)}; the second gets texts, cut to the prompt's length.",
    )] = MODELS[0],
    concurrency: Annotated[str, typer.Option(
        help="Requests at a time, with commas between.")] = "1,32,256",
    requests: Annotated[int, typer.Option(
        min=0, help="Requests of each measure; 0: four for each place of the loop, at least 8.",
    )] = 0,
    prompt_tokens: Annotated[int, typer.Option(min=1)] = 512,
    output_tokens: Annotated[int, typer.Option(min=1)] = 256,
    range_ratio: Annotated[float, typer.Option(
        min=0, max=0.99, help="Lengths differ by up to this share; with 0 all end together.",
    )] = 0.0,
    processes: Annotated[int, typer.Option(min=1, help="Client processes.")] = 2,
    vocab_size: Annotated[int, typer.Option(
        min=1, help="Prompts are random ids below it.")] = 256,
    echo_step_ms: Annotated[float | None, typer.Option(
        help="Start a server whose model repeats the prompt, in steps of so many milliseconds, "
             "with one front end: it measures all but the engine.")] = None,
    stream_interval_ms: Annotated[float, typer.Option(
        min=0, help="Of the server that is started: the setting of that name.")] = 0.0,
    json_file: Annotated[Path | None, typer.Option(
        "--json", help="Keep the results in this file.")] = None,
) -> None:
    """Measure a server."""
    if model not in MODELS:
        raise typer.BadParameter(f"--model {model}: allowed: {', '.join(MODELS)}")
    if address and stream_interval_ms:
        raise typer.BadParameter("--stream-interval-ms: a server that runs has its own")
    turns = [Load(model=model, input_len=prompt_tokens, output_len=output_tokens,
                  vocab_size=vocab_size, ignore_eos=True, range_ratio=range_ratio, seed=number,
                  max_concurrency=number, num_prompts=requests or max(4 * number, 8),
                  num_warmups=NUM_WARM_UP * number) for number in _numbers(concurrency)]
    results = Results(json_file, {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "echo_step_ms": echo_step_ms, "stream_interval_ms": stream_interval_ms})
    _measure(turns, address, processes, results, echo_step_ms, stream_interval_ms)


def _measure(
    turns: Sequence[Load], address: str, processes: int, results: Results,
    echo_step_ms: float | None, stream_interval_ms: float,
) -> None:
    """Measure one turn after the other, of the server at `address` or one that is started."""
    most = max(turn.max_concurrency or 1 for turn in turns)
    summaries = {}
    with (contextlib.nullcontext(address) if address else
          _server(echo_step_ms, most, stream_interval_ms)) as url:
        for turn in turns:
            summary = Summary.of(measure(dataclasses.replace(turn, url=url), processes))
            summaries[f"concurrency {turn.max_concurrency:,}"] = summary
            say(json.dumps(dataclasses.asdict(summary)))
            results.add("serving", summary)
    load = turns[0]
    show(serving_table(f"{load.model}, {load.input_len} tokens in, {load.output_len} out",
                       summaries))


def _numbers(text: str) -> list[int]:
    items = [item.strip() for item in text.split(",")]
    if not all(item.isdecimal() and int(item) > 0 for item in items):
        raise typer.BadParameter(f"--concurrency {text}: allowed: numbers from 1, commas between")
    return [int(item) for item in items]


@contextlib.contextmanager
def _server(
    echo_step_ms: float | None, concurrency: int, stream_interval_ms: float
) -> Iterator[str]:
    """The gRPC address of a server of the demo checkpoint, or of an echo."""
    # Imported here: a machine that only measures need not have what a server needs.
    from benchmarks.running import FREE_PORTS, running_server  # noqa: PLC0415

    settings = dataclasses.replace(FREE_PORTS, front_ends=2 if echo_step_ms is None else 1)
    sizes = {} if echo_step_ms is None else {
        "max_num_seqs": concurrency, "max_num_batched_tokens": 2048 + concurrency}
    with running_server(echo_step_ms, settings, stream_interval_ms=stream_interval_ms,
                        **sizes) as server:
        yield server.grpc_url


if __name__ == "__main__":
    typer.run(main)
