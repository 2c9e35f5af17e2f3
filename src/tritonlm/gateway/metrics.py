"""The gateway's own metrics, for all workers together; docs/metrics.md lists them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from prometheus_client import (
    REGISTRY,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)
from prometheus_client.core import Metric

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Where workers share their counts; prometheus_client looks for it when it is imported."""
BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

REQUESTS = Counter("tritonlm_gateway_requests", "Requests by path and status", ["path", "status"])
IN_FLIGHT = Gauge("tritonlm_gateway_requests_in_flight", "Requests that are being answered",
                  multiprocess_mode="livesum")
SOCKETS = Gauge("tritonlm_gateway_sockets", "Open WebSockets", multiprocess_mode="livesum")
FIRST_BYTE_S = Histogram("tritonlm_gateway_first_byte_seconds",
                         "From a request's head to the first byte of its answer's body", ["path"],
                         buckets=BOUNDS_S)
REQUEST_S = Histogram("tritonlm_gateway_request_seconds", "From a request's head to its end",
                      ["path"], buckets=(*BOUNDS_S, 120, 300, 600))
INPUT_TOKENS = Counter("tritonlm_gateway_input_tokens", "Tokens of prompts", ["model"])
OUTPUT_TOKENS = Counter("tritonlm_gateway_output_tokens", "Tokens of answers", ["model"])

SERVER_UP = Gauge("tritonlm_gateway_server_up", "Whether a server answers and has a model",
                  ["server"], multiprocess_mode="livemin")
SERVER_FAILURES = Counter("tritonlm_gateway_server_failures",
                          "Requests that failed through a server's fault", ["server"])
SERVER_EJECTIONS = Counter("tritonlm_gateway_server_ejections",
                           "How often a server got no more requests for a while", ["server"])


USUAL = ("200", "500", "503")


@cache
def begin_path(path: str) -> None:
    """Have what `path` usually ends with on the page, at 0: a rate sees no counter begin."""
    for status in USUAL:
        REQUESTS.labels(path, status)


def begin_server(server: str) -> None:
    """Have a server's counters on the page, at 0."""
    SERVER_FAILURES.labels(server)
    SERVER_EJECTIONS.labels(server)


def forget_worker() -> None:
    """This worker ends: what it had under way is no more."""
    if FOLDER_VARIABLE in os.environ:
        multiprocess.mark_process_dead(os.getpid())  # type: ignore[no-untyped-call]


def forget_server(name: str) -> None:
    """A server is there no more; workers that share their counts can only say: no number."""
    if FOLDER_VARIABLE in os.environ:
        SERVER_UP.labels(name).set(math.nan)
    else:
        SERVER_UP.remove(name)


def page() -> bytes:
    """All metrics as Prometheus reads them."""
    return generate_latest(_AllWorkers() if FOLDER_VARIABLE in os.environ else REGISTRY)


def _forget_killed_workers() -> None:
    """What workers had under way that could not say that they end."""
    for file in Path(os.environ[FOLDER_VARIABLE]).glob("gauge_live*.db"):
        pid = file.stem.rpartition("_")[2]
        if not Path("/proc", pid).exists():
            multiprocess.mark_process_dead(int(pid))  # type: ignore[no-untyped-call]


class _AllWorkers:
    """What all workers have counted, but for what they have forgotten."""

    def collect(self) -> Iterator[Metric]:
        _forget_killed_workers()
        workers = multiprocess.MultiProcessCollector(None)  # type: ignore[no-untyped-call]
        for metric in workers.collect():  # type: ignore[no-untyped-call]
            metric.samples = [each for each in metric.samples if not math.isnan(each.value)]
            yield metric
