"""The engine beside `transformers.generate`, on the same machine, in the same process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from transformers import AutoModelForCausalLM

from benchmarks.bars import GENERATE_BARS, verdict
from benchmarks.closed_loop import ClosedLoop
from benchmarks.report import Table, number
from benchmarks.subjects import Subject
from benchmarks.workload import request
from tritonlm.engine.build import BuiltEngine
from tritonlm.engine.device import choose_device
from tritonlm.engine.messages import Submit

CONCURRENCIES = (1, 16)
NUM_RUNS = 9
OURS = "tritonlm"
ONE_BY_ONE = "generate, one prompt after the other"
PADDED = "generate, one padded batch"
FIRST_ID = 5
"""The demo's tokenizer has special tokens below."""
SEED = 7


@dataclass(frozen=True)
class Compared:
    """Output tokens per second of both sides in each repetition."""

    shape: str
    concurrency: int
    other: str
    ours: list[float]
    others: list[float]

    @property
    def ratio(self) -> float:
        """How many times as fast ours is: the median of the repetitions."""
        return median(ours / other for ours, other in zip(self.ours, self.others, strict=True))

    @property
    def bar(self) -> float | None:
        """What the ratio is to reach."""
        return GENERATE_BARS.get(self.concurrency) if self.other == ONE_BY_ONE else None


class Generate:
    """`transformers.generate`, greedy, as many tokens as the requests of `subject` have."""

    def __init__(self, subject: Subject) -> None:
        config = subject.config
        self._device = choose_device(config.device)
        is_float32 = config.dtype == "auto" and self._device.type == "cpu"
        self._model: Any = AutoModelForCausalLM.from_pretrained(
            config.model, dtype="float32" if is_float32 else config.dtype)
        self._model.to(self._device).eval()
        self._model.generation_config.eos_token_id = None
        self._num_tokens = subject.num_output_tokens

    def one_by_one(self, prompts: Sequence[NDArray[np.int64]]) -> None:
        """A call for each prompt."""
        for prompt in prompts:
            self.padded([prompt])

    def padded(self, prompts: Sequence[NDArray[np.int64]]) -> None:
        """One call for all, the shorter ones padded on the left."""
        width = max(prompt.size for prompt in prompts)
        ids = np.array([np.pad(prompt, (width - prompt.size, 0)) for prompt in prompts])
        mask = np.array([np.arange(width) >= width - prompt.size for prompt in prompts])
        out = self._model.generate(
            torch.from_numpy(ids).to(self._device), do_sample=False, pad_token_id=0,
            attention_mask=torch.from_numpy(mask).long().to(self._device),
            max_new_tokens=self._num_tokens)
        assert out.shape[1] == width + self._num_tokens, "generate has ended early"


def measure(
    built: BuiltEngine, subject: Subject, concurrency: int, num_repetitions: int,
    progress: Progress,
) -> list[Compared]:
    """All sides in turn, `num_repetitions` times after a round that does not count."""
    sides = _sides(built, subject, concurrency)
    rates: dict[str, list[float]] = {name: [] for name in sides}
    num_tokens = concurrency * subject.num_output_tokens
    task = progress.add_task(f"{subject.name}, {concurrency} at a time",
                             total=(num_repetitions + 1) * len(sides))
    for repetition in range(num_repetitions + 1):
        for name, run in sides.items():
            start_s = time.perf_counter()
            run()
            if repetition:
                rates[name].append(num_tokens / (time.perf_counter() - start_s))
            progress.advance(task)
    progress.remove_task(task)
    ours = rates.pop(OURS)
    return [Compared(subject.name, concurrency, name, ours, others)
            for name, others in rates.items()]


def table(compared: Sequence[Compared]) -> Table:
    """A row for each pair of sides."""
    rows = [(row.shape, str(row.concurrency), number(median(row.ours)), row.other,
             number(median(row.others)), f"{row.ratio:.2f}",
             f"≥ {row.bar:.1f}" if row.bar else "", verdict(row.ratio, row.bar))
            for row in compared]
    return Table(
        "Output tokens per second beside transformers.generate",
        ("model", "requests", "tritonlm", "beside", "its tokens/s", "ratio", "bar", ""), rows,
        f"Medians of {len(compared[0].ours)} repetitions; the ratio is the median of their ratios.")


def random_prompts(count: int, mean_size: int, vocab_size: int) -> list[NDArray[np.int64]]:
    """Prompts of different lengths, from half of `mean_size` to one and a half; the same ones
    whenever they are asked for.
    """
    random = np.random.default_rng(SEED)
    sizes = random.integers(mean_size // 2, mean_size * 3 // 2 + 1, count)
    return [random.integers(FIRST_ID, vocab_size, size) for size in sizes]


def _sides(
    built: BuiltEngine, subject: Subject, concurrency: int
) -> dict[str, Callable[[], None]]:
    prompts = random_prompts(concurrency, subject.num_prompt_tokens, built.limits.vocab_size)
    requests = [request(key, prompt, subject.num_output_tokens)
                for key, prompt in enumerate(prompts)]
    generate = Generate(subject)
    sides: dict[str, Callable[[], None]] = {
        OURS: lambda: _run_engine(built, requests),
        ONE_BY_ONE: lambda: generate.one_by_one(prompts),
    }
    if concurrency > 1:
        sides[PADDED] = lambda: generate.padded(prompts)
    return sides


def _run_engine(built: BuiltEngine, requests: list[Submit]) -> None:
    ClosedLoop(built.engine, requests, len(requests)).run()
