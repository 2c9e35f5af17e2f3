"""What is measured of a subject, shown and kept."""

from __future__ import annotations

import enum
import gc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.progress import Progress

from benchmarks import against_generate, against_vllm, start_up, urgent
from benchmarks.report import Results, Table, number, progress_bar, say, show
from benchmarks.subjects import DEMO, Subject
from tritonlm.engine.build import BuiltEngine, build_engine


class Measure(str, enum.Enum):
    """What there is to measure."""

    SPEED = "speed"
    URGENT = "urgent"
    START_UP = "start-up"


@dataclass(frozen=True)
class Session:
    """Measures one subject after the other."""

    measures: Sequence[Measure]
    concurrencies: Sequence[int]
    """Requests at a time; none: those that are usual for the subject."""
    num_runs: int | None
    results: Results

    def run(self, subject: Subject) -> None:
        """Measure `subject`, in engines that are gone afterwards."""
        if Measure.START_UP in self.measures:
            starts = start_up.measure(subject, say)
            self._keep(Measure.START_UP, starts)
            show(start_up.table(starts))
        if {Measure.SPEED, Measure.URGENT} & {*self.measures}:
            with progress_bar() as progress:
                self._run_engine(subject, progress)
            gc.collect()
            torch.cuda.empty_cache()

    def _run_engine(self, subject: Subject, progress: Progress) -> None:
        built = build_engine(subject.config, say, subject.load)
        if Measure.SPEED in self.measures:
            measure = self._beside_generate if subject.name == DEMO else self._beside_vllm
            show(measure(built, subject, progress))
        if Measure.URGENT in self.measures:
            delay = urgent.measure(built, subject, progress)
            self._keep(Measure.URGENT, [delay])
            show(urgent.table([delay]))

    def _beside_generate(self, built: BuiltEngine, subject: Subject, progress: Progress) -> Table:
        num_runs = self.num_runs or against_generate.NUM_RUNS
        compared = [row for concurrency in self.concurrencies or against_generate.CONCURRENCIES
                    for row in against_generate.measure(
                        built, subject, concurrency, num_runs, progress)]
        self._keep(Measure.SPEED, compared)
        return against_generate.table(compared)

    def _beside_vllm(self, built: BuiltEngine, subject: Subject, progress: Progress) -> Table:
        num_runs = self.num_runs or against_vllm.NUM_RUNS
        measured = []
        for concurrency in self.concurrencies or against_vllm.CONCURRENCIES:
            workload = against_vllm.workload_at(subject, concurrency)
            run = against_vllm.measure(built, subject, workload, num_runs, progress)
            self._keep(Measure.SPEED, [run])
            say(f"{subject.name}, {concurrency} at a time: "
                f"{number(run.speed.output_tokens_per_s)} tokens/s")
            measured.append(run)
        return against_vllm.table(measured)

    def _keep(self, measure: Measure, results: Sequence[Any]) -> None:
        for result in results:
            self.results.add(measure.value, result)
