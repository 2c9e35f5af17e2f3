"""How much of an engine's steps is work of the host."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

SCHEDULER_CALLS = ("schedule", "advance", "commit")


class HostTime:
    """Adds up, inside a `with`, the time that `engine` is in its scheduler and launches steps."""

    def __init__(self, engine: Any, clock: Callable[[], float] = time.perf_counter) -> None:
        self.scheduling_s = 0.0
        self.launching_s = 0.0
        """On a CPU a step is launched when it is over."""
        self._engine = engine
        self._runner = engine.runner
        self._clock = clock

    def __enter__(self) -> HostTime:
        scheduler = self._engine.scheduler
        for name in SCHEDULER_CALLS:
            setattr(scheduler, name, self._timed("scheduling_s", getattr(scheduler, name)))
        self._engine.runner = SimpleNamespace(
            launch=self._timed("launching_s", self._runner.launch))
        return self

    def __exit__(self, *_: object) -> None:
        for name in SCHEDULER_CALLS:
            delattr(self._engine.scheduler, name)  # what is below is the class's own
        self._engine.runner = self._runner

    def _timed(self, total: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            start_s = self._clock()
            result = call(*args)
            setattr(self, total, getattr(self, total) + self._clock() - start_s)
            return result

        return timed
