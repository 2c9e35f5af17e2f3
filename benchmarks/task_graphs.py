"""What CUDA graphs are worth to a model of texts, on a GPU, by the shape of its batches.

python -m benchmarks.task_graphs
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch
from transformers.utils import logging

from benchmarks import machine
from benchmarks.bert import VOCAB_SIZE, save_bert
from benchmarks.report import Table, number, say, show
from tritonlm.encoders.config import EmbedConfig
from tritonlm.encoders.embedder import Embedder
from tritonlm.encoders.rows import Row

SIZES = {"BERT of 12 layers, width 384": (12, 384), "BERT of 12 layers, width 768": (12, 768)}
LONGEST = 512
BATCHES = ((1, 32), (5, 50), (8, 64), (13, 100), (32, 64), (32, 128), (64, 128), (32, 512))
"""Rows, and tokens of each."""
MIXED = (32, "4 to 512")
NUM_RUNS = 20
WARM_UP = 3


def main() -> None:
    """Measure each size of model with graphs and without."""
    if not torch.cuda.is_available():
        sys.exit("this machine has no usable CUDA device")
    logging.disable_progress_bar()
    measure("cuda")


def measure(device: str) -> None:
    """Print a table for each size of model."""
    with tempfile.TemporaryDirectory() as folder:
        for place, (name, (layers, hidden)) in enumerate(SIZES.items()):
            say(f"{name}: it is loaded with graphs and without")
            show(compare(name, save_bert(Path(folder, str(place)), layers, hidden, LONGEST),
                         device))


def compare(name: str, checkpoint: Path, device: str) -> Table:
    """Times of batches, with graphs and without."""
    (eager, eager_s, _), (captured, captured_s, num_bytes) = (
        _load(EmbedConfig(model=str(checkpoint), device=device, cuda_graphs=has_graphs))
        for has_graphs in (False, True))
    rows = []
    for num_rows, length, batch in _batches():
        eager_ms, captured_ms = (_milliseconds(each, batch) for each in (eager, captured))
        rows.append((f"{num_rows} x {length}", number(eager_ms), number(captured_ms),
                     number(eager_ms / captured_ms)))
    return Table(name, ("rows x tokens", "without, ms", "CUDA graphs, ms", "times as fast"), rows,
                 f"Median of {NUM_RUNS}, from rows to embeddings on the host. Loading took "
                 f"{number(eager_s)} s without graphs, and {number(captured_s)} s with "
                 f"{captured.runner.num_graphs} of them, which take {number(num_bytes / 2**20)} "
                 "MiB with all else beside the weights. "
                 f"{machine.one_line(machine.describe(torch.device(device)))}")


def _load(config: EmbedConfig) -> tuple[Embedder, float, int]:
    """A model, seconds that loading it took, and bytes that it has beside its weights."""
    free_bytes, start_s = _free_bytes(), time.perf_counter()
    embedder = Embedder(config)
    took_s = time.perf_counter() - start_s
    weights = sum(weight.nbytes for weight in embedder._module.parameters())
    return embedder, took_s, free_bytes - _free_bytes() - weights


def _free_bytes() -> int:
    return torch.cuda.mem_get_info()[0]


def _batches() -> list[tuple[int, int | str, list[Row]]]:
    random = np.random.default_rng(0)

    def draw(lengths: Sequence[int]) -> list[Row]:
        return [Row(random.integers(1, VOCAB_SIZE, length).astype(np.int32)) for length in lengths]

    mixed = np.exp(random.uniform(np.log(4), np.log(LONGEST), MIXED[0])).astype(int).tolist()
    return [*((num_rows, length, draw([length] * num_rows)) for num_rows, length in BATCHES),
            (*MIXED, draw(mixed))]


def _milliseconds(embedder: Embedder, rows: Sequence[Row]) -> float:
    times_s = []
    for _ in range(WARM_UP + NUM_RUNS):
        start_s = time.perf_counter()
        embedder.runner.run(rows)
        times_s.append(time.perf_counter() - start_s)
    return 1000 * median(times_s[WARM_UP:])


if __name__ == "__main__":
    main()
