"""Whether the engine's memory grows with the requests it has served: `python -m benchmarks.memory`.

Requests of random lengths and options run in a closed loop; the exit code is 1 when the memory of
the process, or of the device, grows through the second half of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import torch
import typer

from benchmarks import machine
from benchmarks.closed_loop import ClosedLoop
from benchmarks.report import Results, Table, number, progress_bar, say, show
from tritonlm.config import ModelConfig
from tritonlm.engine.build import BuiltEngine, build_engine
from tritonlm.engine.loading import choose_device
from tritonlm.engine.messages import Submit

MIB = 2**20
NUM_SAMPLES = 100
NUM_ROWS = 10
MAX_GROWTH_MIB = 0.5
"""For every 1,000 requests of the second half: some 500 bytes of each."""
MAX_PROMPT_TOKENS, MAX_OUTPUT_TOKENS = 32, 4
KV_CACHE_GIB = 0.05
"""So little that what the prefix cache keeps has to make room, again and again."""
SEED = 3


@dataclass(frozen=True)
class Footprint:
    """Memory after `num_requests` requests."""

    num_requests: int
    host_mib: float
    """Resident memory of the process."""
    device_mib: float
    """Memory of the device that is in use, whoever uses it; 0 on a CPU."""

    @classmethod
    def now(cls, num_requests: int, device: torch.device) -> Footprint:
        """As it is at this moment."""
        used = 0
        if device.type == "cuda":
            num_free, total = torch.cuda.mem_get_info(device)
            used = total - num_free
        return cls(num_requests, psutil.Process().memory_info().rss / MIB, used / MIB)


@dataclass(frozen=True)
class Growth:
    """MiB for 1,000 requests of the second half."""

    host_mib: float
    device_mib: float

    @classmethod
    def of(cls, footprints: list[Footprint]) -> Growth:
        """The slopes of the lines that fit the second half of `footprints` best."""
        half = footprints[len(footprints) // 2 :]
        thousands = np.array([footprint.num_requests for footprint in half]) / 1000
        host, device = (np.polyfit(thousands, values, 1)[0] for values in (
            [footprint.host_mib for footprint in half],
            [footprint.device_mib for footprint in half]))
        return cls(float(host), float(device))

    @property
    def is_leak(self) -> bool:
        """Whether it is more than the bound."""
        return max(self.host_mib, self.device_mib) > MAX_GROWTH_MIB


def main(
    requests: Annotated[int, typer.Option(min=1000, help="How many to run.")] = 10_000,
    concurrency: Annotated[int, typer.Option(min=1, help="How many at a time.")] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    json: Annotated[Path | None, typer.Option(help="Keep the results in this file.")] = None,
) -> None:
    """Run many requests of the demo checkpoint and watch the memory."""
    chosen = choose_device(device)
    about = machine.describe(chosen)
    say(machine.one_line(about))
    built = build_engine(ModelConfig(device=chosen.type, kv_cache_gib=KV_CACHE_GIB), say)
    footprints = watch(built, random_requests(requests, built.limits.vocab_size), concurrency,
                       chosen)
    growth = Growth.of(footprints)
    results = Results(json, about)
    for footprint in footprints:
        results.add("footprint", footprint)
    results.add("growth", growth)
    show(table(footprints, growth))
    raise typer.Exit(growth.is_leak)


def watch(
    built: BuiltEngine, requests: list[Submit], concurrency: int, device: torch.device
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

        ClosedLoop(built.engine, requests, concurrency).run(count)
    return footprints


def random_requests(count: int, vocab_size: int) -> list[Submit]:
    """Requests of all lengths up to the most, half of them sampled."""
    random = np.random.default_rng(SEED)
    sizes = random.integers(1, MAX_PROMPT_TOKENS + 1, count).tolist()
    lengths = random.integers(1, MAX_OUTPUT_TOKENS + 1, count).tolist()
    return [Submit(key, f"request {key}",
                   random.integers(0, vocab_size, size).astype(np.int32).tobytes(), length,
                   temperature=float(key % 2), top_p=0.9, seed=key, ignore_eos=True)
            for key, (size, length) in enumerate(zip(sizes, lengths, strict=True))]


def table(footprints: list[Footprint], growth: Growth) -> Table:
    """Every tenth of the run, and the verdict."""
    has_device = any(footprint.device_mib for footprint in footprints)
    num_columns = 3 if has_device else 2
    shown = footprints[:: max(len(footprints) // NUM_ROWS, 1)]
    rows = [(f"{footprint.num_requests:,}", number(footprint.host_mib),
             number(footprint.device_mib)) for footprint in shown]
    slope = ("for 1,000 more", f"{growth.host_mib:+.2f}", f"{growth.device_mib:+.2f}")
    verdict = "it grows" if growth.is_leak else "it does not grow"
    return Table("Memory in use", ("requests done", "process MiB", "device MiB")[:num_columns],
                 [row[:num_columns] for row in (*rows, slope)],
                 f"Through the second half {verdict}: "
                 f"the bound is {MAX_GROWTH_MIB} MiB for 1,000 requests.")


if __name__ == "__main__":
    typer.run(main)
