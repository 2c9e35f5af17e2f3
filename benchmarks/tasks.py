"""What batches are worth: embeds of mixed length, served one by one, padded, and by length.

`python -m benchmarks.tasks` serves one checkpoint with random weights as three models beside each
other, and gives each the same requests by turns. The ratios are the medians of the rounds'.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Annotated
from unittest.mock import patch

import grpc
import numpy as np
import torch
import typer
from numpy.typing import NDArray
from tritonclient.grpc.service_pb2 import ModelInferRequest
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from benchmarks import machine, task_graphs
from benchmarks.bars import TASK_BARS, verdict
from benchmarks.bert import VOCAB_SIZE, save_bert
from benchmarks.report import Table, number, progress_bar, say, show
from benchmarks.running import FREE_PORTS
from tritonlm.config import ModelConfig
from tritonlm.server import launcher, repository
from tritonlm.server.tritonserver import TritonServer
from tritonlm_client.requests import Request

ONE_BY_ONE, PADDED, BY_LENGTH = "embed_one_by_one", "embed_padded", "embed"
ABOUT = {ONE_BY_ONE: "one by one", PADDED: "dynamic batcher, padded to the longest",
         BY_LENGTH: "dynamic batcher, length buckets"}
PAD_TO_THE_LONGEST = """
from tritonlm.encoders import row_runner

row_runner.BATCH_COST["cpu"] = 10**9
"""
BATCHING = re.compile(r"^dynamic_batching \{.*?^\}", re.DOTALL | re.MULTILINE)
CPU = torch.device("cpu")
Speeds = dict[str, list[float]]
"""Requests a second in each round, by model."""


def main(
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 32,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    requests: Annotated[int, typer.Option(min=1, help="Of each round, to each model.")] = 256,
    shortest: Annotated[int, typer.Option(min=1, help="Tokens.")] = 4,
    longest: Annotated[int, typer.Option(min=1, help="Tokens; lengths between are log-uniform.")]
    = 128,
    layers: Annotated[int, typer.Option(min=1)] = 4,
    hidden: Annotated[int, typer.Option(min=64, help="Width of the model.")] = 128,
) -> None:
    """Measure batches of embeds; the exit code is 1 if a ratio is below its bar."""
    if torch.cuda.is_available():
        task_graphs.main()
    random = np.random.default_rng(0)
    lengths = np.exp(random.uniform(np.log(shortest), np.log(longest + 1), requests)).astype(int)
    rows = [random.integers(1, VOCAB_SIZE, (1, length), np.int32) for length in lengths]
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = save_bert(Path(folder) / "checkpoint", layers, hidden, longest)
        with _server(Path(folder), checkpoint) as server:
            speeds = asyncio.run(_measure(server, rows, concurrency, rounds))
    _report(speeds, f"{requests} requests of {shortest} to {longest} tokens, mean "
                    f"{lengths.mean():.0f}, {concurrency} at a time; BERT of {layers} layers, "
                    f"width {hidden}, float32. {machine.one_line(machine.describe(CPU))}")


@contextmanager
def _server(folder: Path, checkpoint: Path) -> Iterator[TritonServer]:
    """One that has the three models."""
    models = folder / repository.TASK_REPOSITORY.name
    for name in ABOUT:
        shutil.copytree(repository.TASK_REPOSITORY / BY_LENGTH, models / name)
        config = models / name / repository.CONFIG_NAME
        config.write_text(config.read_text().replace(f'name: "{BY_LENGTH}"', f'name: "{name}"'))
    alone = models / ONE_BY_ONE / repository.CONFIG_NAME
    alone.write_text(BATCHING.sub("", alone.read_text()))
    with (models / PADDED / "1" / "model.py").open("a") as model:
        model.write(PAD_TO_THE_LONGEST)
    settings = replace(FREE_PORTS, embed_model=str(checkpoint), front_ends=1)
    with (patch.object(repository, "TASK_REPOSITORY", models),
          patch.dict(repository.TASKS, {"embed": tuple(ABOUT)}),
          launcher.launch(launcher.prepare(settings, ModelConfig(device="cpu", kv_cache_gib=0.1)),
                          say) as server):
        yield server


async def _measure(
    server: TritonServer, rows: Sequence[NDArray[np.int32]], concurrency: int, rounds: int
) -> Speeds:
    speeds: Speeds = {name: [] for name in ABOUT}
    with progress_bar() as progress:
        task = progress.add_task("embeds", total=(rounds + 1) * len(ABOUT))
        async with grpc.aio.insecure_channel(server.grpc_url) as channel:
            stub = GRPCInferenceServiceStub(channel)
            for place in range(rounds + 1):
                for name in ABOUT:
                    requests = [Request(name, "", {"input_ids": ids}, ["embedding"]).as_protobuf()
                                for ids in rows]
                    speed = await _run(stub, requests, concurrency)
                    progress.advance(task)
                    if place:  # the first round warms up
                        speeds[name].append(speed)
    return speeds


async def _run(
    stub: GRPCInferenceServiceStub, requests: Sequence[ModelInferRequest], concurrency: int
) -> float:
    """Requests a second."""
    waiting = iter(requests)

    async def one_after_another() -> None:
        for request in waiting:
            await stub.ModelInfer(request)

    start_s = time.perf_counter()
    await asyncio.gather(*(one_after_another() for _ in range(concurrency)))
    return len(requests) / (time.perf_counter() - start_s)


def _report(speeds: Speeds, about: str) -> None:
    show(Table("Embeds", ("model", "requests/s", "rounds"), [
        (ABOUT[name], number(median(each)), ", ".join(map(number, each)))
        for name, each in speeds.items()], about))
    ratios = {"dynamic batcher": _ratio(speeds[BY_LENGTH], speeds[ONE_BY_ONE]),
              "length buckets": _ratio(speeds[BY_LENGTH], speeds[PADDED])}
    show(Table("Ratios", ("what", "times as fast", "bar", ""), [
        (name, number(ratio), number(TASK_BARS[name]), verdict(ratio, TASK_BARS[name]))
        for name, ratio in ratios.items()]))
    sys.exit(any(ratio < TASK_BARS[name] for name, ratio in ratios.items()))


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return median(one / other for one, other in zip(ours, theirs, strict=True))


if __name__ == "__main__":
    typer.run(main)
