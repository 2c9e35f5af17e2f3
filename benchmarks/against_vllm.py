"""Output rate and latency of a model at several concurrencies, beside what vLLM does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.progress import Progress

from benchmarks.bars import BARS, PEER_SETTING, PEERS, Peer, verdict
from benchmarks.closed_loop import ClosedLoop
from benchmarks.host_time import HostTime
from benchmarks.report import Table, number
from benchmarks.subjects import Subject
from benchmarks.workload import MS, Speed, Workload
from tritonlm.engine.build import BuiltEngine

CONCURRENCIES = (1, 32, 256)
NUM_RUNS = 1
WARM_UP_TOKENS = 16
WARM_UP_SEED = 0
COLUMNS = ("shape", "concurrency", "", "tokens/s", "TPOT ms", "TTFT ms", "TTFT p99 ms", "steps",
           "step ms", "scheduling ms", "launching ms", "bar", "")


@dataclass(frozen=True)
class Measured:
    """One run of a workload."""

    shape: str
    workload: Workload
    speed: Speed
    scheduling_ms: float
    """Of a mean step: what the host does in the scheduler."""
    launching_ms: float
    """And to launch the step; the rest is waiting for the device, and handing out tokens."""


def workload_at(subject: Subject, concurrency: int) -> Workload:
    """The requests of `subject`: four for each place in the loop, and six for a single one."""
    return Workload(concurrency, 6 if concurrency == 1 else 4 * concurrency,
                    subject.num_prompt_tokens, subject.num_output_tokens)


def measure(
    built: BuiltEngine, subject: Subject, workload: Workload, num_runs: int, progress: Progress
) -> Measured:
    """The run of median rate among `num_runs`, after a short one that does not count."""
    warm_up = replace(workload, num_requests=workload.concurrency,
                      num_output_tokens=WARM_UP_TOKENS)
    _run(built, subject.name, warm_up, WARM_UP_SEED, progress)
    runs = [_run(built, subject.name, workload, WARM_UP_SEED + 1 + run, progress)
            for run in range(num_runs)]
    return sorted(runs, key=lambda run: run.speed.output_tokens_per_s)[num_runs // 2]


def _run(
    built: BuiltEngine, shape: str, workload: Workload, seed: int, progress: Progress
) -> Measured:
    requests = workload.requests(built.limits.vocab_size, seed)
    task = progress.add_task(f"{shape}, {workload.concurrency} at a time", total=len(requests))
    loop = ClosedLoop(built.engine, requests, workload.concurrency)
    with HostTime(built.engine) as host:
        timeline = loop.run(lambda num_ended: progress.advance(task, num_ended))
    progress.remove_task(task)
    speed = Speed.of(timeline, loop.num_steps)
    ms_per_step = MS / loop.num_steps
    return Measured(shape, workload, speed, host.scheduling_s * ms_per_step,
                    host.launching_s * ms_per_step)


def table(measured: Sequence[Measured]) -> Table:
    """Each run, and below it what others do at the same work."""
    rows: list[tuple[str, ...]] = []
    for run in measured:
        place = (run.shape, run.workload.concurrency)
        rows.append(_our_row(run))
        rows += [_peer_row(place, peer) for peer in PEERS.get(place, ())]
    return Table("Speed of the engine", COLUMNS, rows, PEER_SETTING)


def _our_row(run: Measured) -> tuple[str, ...]:
    place, speed = (run.shape, run.workload.concurrency), run.speed
    bar = BARS.get(place)
    times = (speed.output_tokens_per_s, speed.tpot_median_ms, speed.ttft_median_ms,
             speed.ttft_p99_ms)
    host_times = (speed.step_ms, run.scheduling_ms, run.launching_ms)
    return (run.shape, str(run.workload.concurrency), "tritonlm", *map(number, times),
            f"{speed.num_steps:,}", *map(number, host_times),
            f"≥ {bar:,.0f}" if bar else "", verdict(speed.output_tokens_per_s, bar))


def _peer_row(place: tuple[str, int], peer: Peer) -> tuple[str, ...]:
    times = (peer.output_tokens_per_s, peer.tpot_median_ms, peer.ttft_median_ms, peer.ttft_p99_ms)
    blank = ("",) * (len(COLUMNS) - 3 - len(times))
    return (place[0], str(place[1]), peer.name, *map(number, times), *blank)
