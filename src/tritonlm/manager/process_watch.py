"""Whether the processes of loaded models are there: tritonserver calls them ready all the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import psutil

INTERVAL_S = 1.0


class ProcessWatch:
    """The processes that each loaded model needs."""

    def __init__(self, on_loss: Callable[[str], None]) -> None:
        """`on_loss` hears of a model that has lost one."""
        self._on_loss = on_loss
        self._processes: dict[str, set[psutil.Process]] = {}

    def follow(self, model: str, processes: set[psutil.Process]) -> None:
        """From now on the `model` needs those."""
        self._processes[model] = processes

    def leave(self, model: str) -> None:
        """The processes of the `model` may end."""
        self._processes.pop(model, None)

    async def run(self) -> None:
        """Look again and again."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            for model, processes in tuple(self._processes.items()):
                if any(map(_has_ended, processes)):
                    self._on_loss(model)


def _has_ended(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
