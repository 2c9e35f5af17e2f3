"""How soon an urgent request is answered while normal ones take every place and wait for more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.progress import Progress

from benchmarks.bars import URGENT_BAR_STEPS, verdict
from benchmarks.closed_loop import ClosedLoop, Timeline
from benchmarks.report import Table, number
from benchmarks.subjects import Subject
from benchmarks.workload import MS, Workload, request
from tritonlm.engine.build import BuiltEngine

URGENT = 0
NUM_PROBES = 16
FIRST_STEP = 64
SEED = 99


@dataclass(frozen=True)
class UrgentDelay:
    """Time to the first token of urgent requests; a step that brings it is step 1."""

    shape: str
    num_seqs: int
    median_steps: float
    most_steps: int
    median_ms: float
    most_ms: float
    normal_median_ms: float
    """Of the normal requests, queue and all."""


def measure(built: BuiltEngine, subject: Subject, progress: Progress) -> UrgentDelay:
    """Probe a loop of twice as many normal requests as fit in a step."""
    num_seqs = subject.config.max_num_seqs
    load = Workload(2 * num_seqs, 4 * num_seqs, subject.num_prompt_tokens,
                    subject.num_output_tokens)
    normal = load.requests(built.limits.vocab_size, SEED)
    prompts = np.random.default_rng(SEED + 1).integers(
        0, built.limits.vocab_size, (NUM_PROBES, subject.num_prompt_tokens))
    probes = {FIRST_STEP + place * subject.num_output_tokens // 8:
              request(len(normal) + place, prompt, 2, URGENT)
              for place, prompt in enumerate(prompts)}
    task = progress.add_task(f"{subject.name}, urgent requests", total=len(normal))
    loop = ClosedLoop(built.engine, normal, load.concurrency, probes)
    timeline = loop.run(lambda num_ended: progress.advance(task, num_ended))
    progress.remove_task(task)
    return delay(subject.name, num_seqs, timeline, len(normal))


def delay(shape: str, num_seqs: int, timeline: Timeline, num_normal: int) -> UrgentDelay:
    """What `timeline` says, whose requests from `num_normal` on are urgent."""
    ttft_ms = (timeline.first_s - timeline.submitted_s) * MS
    steps = (timeline.first_step - timeline.submitted_step + 1)[num_normal:]
    return UrgentDelay(
        shape=shape,
        num_seqs=num_seqs,
        median_steps=float(np.median(steps)),
        most_steps=int(steps.max()),
        median_ms=float(np.median(ttft_ms[num_normal:])),
        most_ms=float(ttft_ms[num_normal:].max()),
        normal_median_ms=float(np.median(ttft_ms[:num_normal])),
    )


def table(delays: Sequence[UrgentDelay]) -> Table:
    """A row for each shape."""
    return Table(
        "Time to the first token of urgent requests under full load",
        ("shape", "requests in a step", "ms, median", "ms, most", "normal ones, ms, median",
         "steps, median", "steps, most", "bar", ""),
        [(row.shape, str(row.num_seqs), number(row.median_ms), number(row.most_ms),
          number(row.normal_median_ms), number(row.median_steps), str(row.most_steps),
          f"≤ {URGENT_BAR_STEPS}", verdict(URGENT_BAR_STEPS, row.most_steps))
         for row in delays],
    )
