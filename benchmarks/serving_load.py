"""A load spread over several client processes, and what they measure together."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.grpc_load import Load, Seen
from benchmarks.report import Table, number

MS = 1000
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class ServingSpeed:
    """What clients see of a server under a load."""

    concurrency: int
    num_requests: int
    num_failed: int
    output_tokens_per_s: float
    ttft_median_ms: float
    """Time to the first chunk."""
    ttft_p99_ms: float
    tpot_median_ms: float
    """Time per token after the first chunk, of the median request."""
    tpot_p99_ms: float
    chunks_per_s: float
    tokens_per_chunk: float
    wall_s: float
    first_error: str

    @classmethod
    def of(cls, concurrency: int, seen: Sequence[Seen]) -> ServingSpeed:
        """The speed that the requests `seen` had together; NaN where all have failed."""
        good = [one for one in seen if not one.error]
        columns = np.array([dataclasses.astuple(one)[:-1] for one in good]).reshape(-1, 6)
        started, first, last, tokens, chunks, first_tokens = columns.T
        ttft_ms = (first - started) * MS
        later = tokens - first_tokens
        tpot_ms = ((last - first) * MS)[later > 0] / later[later > 0]
        wall_s = float(last.max() - started.min()) if good else float("nan")
        return cls(
            concurrency=concurrency, num_requests=len(seen), num_failed=len(seen) - len(good),
            output_tokens_per_s=float(tokens.sum()) / wall_s,
            ttft_median_ms=_percentile(ttft_ms, 50), ttft_p99_ms=_percentile(ttft_ms, 99),
            tpot_median_ms=_percentile(tpot_ms, 50), tpot_p99_ms=_percentile(tpot_ms, 99),
            chunks_per_s=float(chunks.sum()) / wall_s,
            tokens_per_chunk=float(tokens.sum() / max(chunks.sum(), 1)), wall_s=wall_s,
            first_error=next((one.error for one in seen if one.error), ""))


def measure(
    load: Load, num_processes: int, client: str = "benchmarks.grpc_load"
) -> ServingSpeed:
    """Run `load` in at most `num_processes` processes of `client`, which begin together."""
    num_processes = min(num_processes, load.concurrency)
    shares = [dataclasses.replace(
        load, seed=load.seed + place, num_requests=_share(load.num_requests, place, num_processes),
        concurrency=_share(load.concurrency, place, num_processes))
        for place in range(num_processes)]
    clients = [_start(share, client) for share in shares]
    try:
        for process in clients:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise RuntimeError("a client process of the load could not reach the server")
        for process in clients:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        answers = [process.communicate()[0] for process in clients]
    finally:
        for process in clients:
            process.kill()
            process.wait()
    return ServingSpeed.of(load.concurrency, [
        Seen(*values) for answer in answers for values in json.loads(answer)])


def table(title: str, speeds: Sequence[ServingSpeed]) -> Table:
    """The table of speeds, a row for each."""
    columns = ("concurrency", "requests", "failed", "tokens/s", "TTFT ms", "TTFT p99 ms",
               "TPOT ms", "TPOT p99 ms", "chunks/s", "tokens/chunk")
    rows = [(f"{speed.concurrency:,}", f"{speed.num_requests:,}", f"{speed.num_failed:,}",
             *(number(value) for value in (
                 speed.output_tokens_per_s, speed.ttft_median_ms, speed.ttft_p99_ms,
                 speed.tpot_median_ms, speed.tpot_p99_ms, speed.chunks_per_s,
                 speed.tokens_per_chunk)))
            for speed in speeds]
    errors = sorted({speed.first_error for speed in speeds if speed.first_error})
    return Table(title, columns, rows, "; ".join(errors))


def _start(load: Load, module: str) -> subprocess.Popen[str]:
    client = subprocess.Popen([sys.executable, "-m", module], cwd=ROOT, text=True,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert client.stdin is not None
    client.stdin.write(json.dumps(dataclasses.asdict(load)) + "\n")
    client.stdin.flush()
    return client


def _share(total: int, place: int, num_shares: int) -> int:
    return total // num_shares + (place < total % num_shares)


def _percentile(values: np.ndarray[tuple[int], np.dtype[np.float64]], percent: float) -> float:
    return float(np.percentile(values, percent)) if values.size else float("nan")
