"""From a new process to the first token, without and with what an earlier start has compiled."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

from benchmarks.closed_loop import ClosedLoop
from benchmarks.report import Table, number
from benchmarks.subjects import Report, Subject
from benchmarks.workload import Workload
from tritonlm.engine.build import build_engine

CACHE_VARIABLES = ("XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
COLD, WARM = "cold", "warm"


@dataclass(frozen=True)
class StartUp:
    """Seconds since the start of the process."""

    shape: str
    compile_cache: str
    """cold or warm"""
    ready_s: float
    """The engine takes requests."""
    first_token_s: float
    """And has answered one."""


def measure(subject: Subject, report: Report) -> list[StartUp]:
    """Start the engine of `subject` twice, with a compile cache that is empty at first."""
    measured = []
    with tempfile.TemporaryDirectory(prefix="tritonlm-") as folder, _caches_in(folder):
        for compile_cache in (COLD, WARM):
            report(f"starting {subject.name} with a {compile_cache} compile cache")
            measured.append(StartUp(subject.name, compile_cache, *_start(subject)))
    return measured


def table(measured: Sequence[StartUp]) -> Table:
    """A row for each start."""
    return Table("Start of the engine, from a new process",
                 ("shape", "compile cache", "ready s", "first token s"),
                 [(row.shape, row.compile_cache, number(row.ready_s), number(row.first_token_s))
                  for row in measured])


def _start(subject: Subject) -> tuple[float, float]:
    """Seconds until the engine of a new process is ready, and until its first token."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    start_s = time.monotonic()
    process = context.Process(target=_serve_one, args=(subject, sender))
    process.start()
    sender.close()
    try:
        ready_s, first_token_s = receiver.recv()
    except EOFError:
        raise RuntimeError(f"the engine of {subject.name} did not start") from None
    finally:
        process.join()
    return ready_s - start_s, first_token_s - start_s


def _serve_one(subject: Subject, sender: Connection) -> None:
    """Send when the engine is ready, and when it has answered; on the machine's clock."""
    built = build_engine(subject.config, lambda line: None, subject.load)
    ready_s = time.monotonic()
    workload = Workload(1, 1, subject.num_prompt_tokens, 1)
    ClosedLoop(built.engine, workload.requests(built.limits.vocab_size, seed=0), 1).run()
    sender.send((ready_s, time.monotonic()))


@contextmanager
def _caches_in(folder: str) -> Iterator[None]:
    """Let processes that start in the `with` keep what they compile in `folder`."""
    before = {name: os.environ.get(name) for name in CACHE_VARIABLES}
    os.environ.update({name: os.path.join(folder, name.lower()) for name in CACHE_VARIABLES})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
