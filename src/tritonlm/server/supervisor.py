"""Keeps a server running: one that is lost is started again, with back-off, on the same ports."""

from __future__ import annotations

import time
from collections.abc import Callable

from tritonlm.backoff import Backoff
from tritonlm.errors import ServerCrashed, ServerLost, StartFailure
from tritonlm.logs import PREFIX
from tritonlm.server import launcher, processes
from tritonlm.server.tritonserver import TritonServer

FIRST_PAUSE_S = 1.0
MAX_FAILED_STARTS = 5
"""In a row, of a server that did start once."""
MAX_CRASHES = 2
"""Of one that never did: on a busy machine, tritonserver 24.10 aborts now and then as it loads."""


def run(
    plan: launcher.Launch, report: Callable[[str], None],
    on_ready: Callable[[TritonServer], None], on_stop: Callable[[], None] = lambda: None,
) -> None:
    """Serve until the caller is interrupted; `on_ready` makes each server ready that has come up.

    `on_stop` is called before the last one is told to stop. Raises `StartFailure` if the first
    one cannot start, or none does any more.
    """
    backoff, num_failures, has_served = Backoff(FIRST_PAUSE_S), 0, False
    while True:
        ready_s = time.monotonic()
        try:
            with launcher.launch(plan, report) as server:
                on_ready(server)
                ready_s, num_failures, has_served = time.monotonic(), 0, True
                _watch(server, report, on_stop)
        except ServerLost as lost:
            reason = lost.message
        except StartFailure as failure:
            num_failures += 1
            if num_failures >= _most_failures(failure, has_served):
                raise
            reason = failure.message
        processes.reap_orphans()
        pause_s = backoff.pause_s(time.monotonic() - ready_s)
        report(f"{PREFIX}{reason}; starting it again in {pause_s:g} s")
        time.sleep(pause_s)


def _most_failures(failure: StartFailure, has_served: bool) -> int:
    """How many starts in a row may fail, the last one so."""
    if has_served:
        return MAX_FAILED_STARTS
    return MAX_CRASHES if isinstance(failure, ServerCrashed) else 1


def _watch(
    server: TritonServer, report: Callable[[str], None], on_stop: Callable[[], None]
) -> None:
    try:
        server.watch()
    except KeyboardInterrupt:
        report(f"{PREFIX}stopping")
        on_stop()
        raise
