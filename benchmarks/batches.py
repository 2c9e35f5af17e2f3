"""Batches of several sizes, made in three ways: `python -m benchmarks.batches`.

The same requests of mixed lengths are answered by the demo model in padded batches that are fixed
beforehand (`transformers.generate`, no server), in padded batches that Triton's dynamic batcher
makes of whole requests, and in the engine's continuous batches, through the model `complete`. The
last two are asked by so many clients at a time, over gRPC.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import torch
import tritonclient.grpc.aio as grpcclient
import typer
from numpy.typing import NDArray

from benchmarks import machine, plot
from benchmarks.padded_generate import PaddedGenerate
from benchmarks.report import Table, number, progress_bar, say, show
from benchmarks.running import FREE_PORTS
from tritonlm.config import ModelConfig
from tritonlm.server import launcher, repository
from tritonlm.server.tritonserver import TritonServer

SIZES = (1, 4, 8, 16, 32)
MIN_REQUESTS = 16
MIN_BATCHES = 2
STATIC, DYNAMIC, CONTINUOUS = "static, padded", "dynamic batcher, padded", "continuous"
MODELS = {DYNAMIC: "padded", CONTINUOUS: "complete"}
ROOT = Path(__file__).parents[1]
MODEL = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from benchmarks.padded_model import PaddedModel as TritonPythonModel
"""
FIRST_ID, END_ID = 5, 1000
"""Of prompts: the demo's tokenizer has special tokens below, and a few more above."""
MS = 1000


@dataclass(frozen=True)
class Request:
    """A prompt, and how many tokens are to follow it."""

    ids: NDArray[np.int32]
    length: int


def main(
    prompt_tokens: Annotated[int, typer.Option(min=2, help="Mean.")] = 64,
    output_tokens: Annotated[int, typer.Option(min=2, help="Mean.")] = 64,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    svg: Annotated[Path, typer.Option(help="Where the plot goes.")] = ROOT / "docs/batching.svg",
) -> None:
    """Measure batches; lengths are drawn from a half to one and a half times their mean.

    Each size has the first so many of the same requests: two batches of it, and at least 16.
    """
    random = np.random.default_rng(7)
    work = [Request(random.integers(FIRST_ID, END_ID, _length(random, prompt_tokens), np.int32),
                    _length(random, output_tokens)) for _ in range(_num_requests(SIZES[-1]))]
    with _server() as server:
        sides = _sides(server, work)
        seconds = _measure(sides, rounds)
    _report(seconds, {size: sum(request.length for request in work[: _num_requests(size)])
                      for size in SIZES}, svg, (
        f"Prompts of {prompt_tokens} and answers of {output_tokens} tokens "
        f"in the mean; medians of {rounds} rounds. "
        f"{machine.one_line(machine.describe(torch.device('cpu')))}"))


def _num_requests(size: int) -> int:
    return max(MIN_REQUESTS, MIN_BATCHES * size)


def _length(random: np.random.Generator, mean: int) -> int:
    return int(random.integers(mean // 2, mean * 3 // 2 + 1))


@contextmanager
def _server() -> Iterator[TritonServer]:
    """One that has the padded model, too."""
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        (models / "padded" / "1").mkdir(parents=True)
        (models / "padded" / "1" / "model.py").write_text(MODEL)
        shutil.copy(ROOT / "benchmarks" / "padded.pbtxt", models / "padded" / "config.pbtxt")
        plan = launcher.prepare(FREE_PORTS, ModelConfig(
            device="cpu", kv_cache_gib=0.5, prefix_cache=False))
        with launcher.launch(plan, say, (*repository.REPOSITORIES, models)) as server:
            yield server


def _sides(
    server: TritonServer, work: Sequence[Request]
) -> dict[str, Callable[[int], None]]:
    """What answers the `work` of a size in batches of that size, by name."""
    generate = PaddedGenerate()

    def static(size: int) -> None:
        for start in range(0, _num_requests(size), size):
            batch = work[start : start + size]
            generate.run([request.ids for request in batch], [one.length for one in batch])

    return {STATIC: static, **{
        name: partial(_run_clients, server.grpc_url, model, work)
        for name, model in MODELS.items()}}


def _run_clients(url: str, model: str, work: Sequence[Request], size: int) -> None:
    asyncio.run(_ask(url, model, work[: _num_requests(size)], size))


async def _ask(url: str, model: str, work: Sequence[Request], size: int) -> None:
    """All of `work`, so many requests at a time."""
    waiting = iter(work)

    async def one_after_another(client: grpcclient.InferenceServerClient) -> None:
        for request in waiting:
            got = await client.infer(model, _inputs(model, request), outputs=[
                grpcclient.InferRequestedOutput("output_ids")])
            assert got.as_numpy("output_ids").size == request.length, "an answer is too short"

    async with grpcclient.InferenceServerClient(url) as client:
        await asyncio.gather(*(one_after_another(client) for _ in range(size)))


def _inputs(model: str, request: Request) -> list[grpcclient.InferInput]:
    values = {"input_ids": request.ids[np.newaxis],
              "max_tokens": np.array([[request.length]], np.int32)}
    if model == MODELS[CONTINUOUS]:
        values |= {"temperature": np.zeros((1, 1), np.float32), "ignore_eos": np.ones((1, 1), bool)}
    return [_input(name, array) for name, array in values.items()]


def _input(name: str, array: NDArray[np.generic]) -> grpcclient.InferInput:
    kind = {"f": "FP32", "b": "BOOL"}.get(array.dtype.kind, "INT32")
    given = grpcclient.InferInput(name, list(array.shape), kind)
    given.set_data_from_numpy(array)
    return given


def _measure(
    sides: dict[str, Callable[[int], None]], rounds: int
) -> dict[str, dict[int, float]]:
    """Seconds of each side and size; a round that does not count comes first."""
    seconds: dict[tuple[str, int], list[float]] = {}
    with progress_bar() as progress:
        for place in range(rounds + 1):
            for size in progress.track(SIZES if place else SIZES[-1:], description=f"{place}"):
                for name, run in sides.items():
                    start_s = time.perf_counter()
                    run(size)
                    if place:
                        seconds.setdefault((name, size), []).append(time.perf_counter() - start_s)
    return {name: {size: median(seconds[name, size]) for size in SIZES} for name in sides}


def _report(
    seconds: dict[str, dict[int, float]], num_tokens: dict[int, int], svg: Path, about: str
) -> None:
    columns = ("size", "batches", "requests", "seconds", "tokens/s", "ms/token")
    show(Table("Batch generation", columns, [
        (str(size), name, str(_num_requests(size)), number(took[size]),
         number(num_tokens[size] / took[size]), number(MS * took[size] / num_tokens[size]))
        for size in SIZES for name, took in seconds.items()], about))
    svg.write_text(plot.lines(
        "Batch generation, demo model on a CPU", "batch size", "tokens/s", SIZES,
        {name: [num_tokens[size] / took[size] for size in SIZES]
         for name, took in seconds.items()}))
    say(f"the plot is {svg}")


if __name__ == "__main__":
    typer.run(main)
