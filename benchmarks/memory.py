"""Whether the engine's memory grows with the requests it has served: `python -m benchmarks.memory`.

The exit code is 1 when the memory of the process, or of the device, grows through the second half
of the requests, or when a request has left a block of the KV cache behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks import machine
from benchmarks.closed_loop import ClosedLoop, SteppedEngine
from benchmarks.footprint import MAX_GROWTH_MIB, Footprint, Growth
from benchmarks.random_load import ImpatientClients, random_requests
from benchmarks.report import Results, Table, number, progress_bar, say, show, sparkline
from benchmarks.settings import Settings, parse_settings
from tritonlm.config import ModelConfig
from tritonlm.engine.build import build_engine
from tritonlm.engine.device import choose_device
from tritonlm.engine.messages import Stats, Submit
from tritonlm.errors import InvalidArgument

NUM_SAMPLES = 100
NUM_ROWS = 10
DEFAULTS = {"kv_cache_gib": "0.05"}
"""So little that what the prefix cache keeps has to make room, again and again."""
SEED = 3


def main(
    requests: Annotated[int, typer.Option(min=1000, help="How many to run.")] = 10_000,
    concurrency: Annotated[int, typer.Option(min=1, help="How many at a time.")] = 64,
    setting: Settings = None,
    json: Annotated[Path | None, typer.Option(help="Keep the results in this file.")] = None,
) -> None:
    """Run many requests of the demo checkpoint and watch the memory."""
    try:
        config = ModelConfig.build(DEFAULTS | parse_settings(setting), {})
        device = choose_device(config.device)
    except InvalidArgument as error:
        raise typer.BadParameter(error.message) from None
    about = machine.describe(device)
    say(machine.one_line(about))
    built = build_engine(config, say)
    clients = ImpatientClients(built.engine, SEED)
    footprints = watch(clients, random_requests(requests, built.limits.vocab_size, SEED),
                       concurrency, device)
    growth, left = Growth.of(footprints), built.engine.stats()
    results = Results(json, about)
    for footprint in footprints:
        results.add("footprint", footprint)
    results.add("growth", growth)
    show(table(footprints, growth, left, clients.num_cancelled))
    raise typer.Exit(growth.is_leak or left.num_blocks_used > 0)


def watch(
    engine: SteppedEngine, requests: list[Submit], concurrency: int, device: torch.device
) -> list[Footprint]:
    """Run `requests`; the memory at equal distances."""
    footprints: list[Footprint] = []
    num_done, interval = 0, max(len(requests) // NUM_SAMPLES, 1)
    with progress_bar() as progress:
        task = progress.add_task("requests", total=len(requests))

        def count(num_ended: int) -> None:
            nonlocal num_done
            num_done += num_ended
            if num_done // interval > len(footprints):
                footprints.append(Footprint.now(num_done, device))
            progress.advance(task, num_ended)

        ClosedLoop(engine, requests, concurrency).run(count)
    return footprints


def table(
    footprints: Sequence[Footprint], growth: Growth, left: Stats, num_cancelled: int
) -> Table:
    """Every tenth of the run, a line of the whole, and the verdict."""
    has_device = any(footprint.device_mib for footprint in footprints)
    num_columns = 3 if has_device else 2
    shown = footprints[:: max(len(footprints) // NUM_ROWS, 1)]
    rows = [(f"{footprint.num_requests:,}", number(footprint.host_mib),
             number(footprint.device_mib)) for footprint in shown]
    slope = ("for 1,000 more", f"{growth.host_mib:+.2f}", f"{growth.device_mib:+.2f}")
    verdict = "it grows" if growth.is_leak else "it does not grow"
    note = (f"Process: {sparkline([footprint.host_mib for footprint in footprints])}\n\n"
            f"Through the second half {verdict}: the bound is {MAX_GROWTH_MIB} MiB for 1,000 "
            f"requests. {num_cancelled:,} requests were cancelled; {left.num_blocks_used} of "
            f"{left.num_blocks:,} blocks are still in use.")
    return Table("Memory in use", ("requests done", "process MiB", "device MiB")[:num_columns],
                 [row[:num_columns] for row in (*rows, slope)], note)


if __name__ == "__main__":
    typer.run(main)
