"""Tells an engine that hangs from one that works or waits for work."""

from __future__ import annotations

from pathlib import Path

from tritonlm.config import ModelConfig
from tritonlm.engine import heartbeat


class Vigil:
    """Looks at an engine's heartbeat, every `interval_s`, from its start.

    It counts its own looks and reads no clock, so that a machine or a container that was frozen
    as a whole does not count as an engine that hung.
    """

    def __init__(self, path: Path, config: ModelConfig, interval_s: float) -> None:
        self._path = path
        self._config = config
        self._interval_s = interval_s
        self._count = 0
        self._still_s = 0.0

    def look(self) -> str | None:
        """What is wrong with the engine, if it has not moved for too long."""
        count = heartbeat.read(self._path)
        self._still_s = 0.0 if count != self._count else self._still_s + self._interval_s
        self._count = count
        name = "hang_timeout_s" if count else "engine_start_timeout_s"
        limit_s = getattr(self._config, name)
        if self._still_s <= limit_s:
            return None
        what = "hung: no step has ended" if count else "was not ready"
        return f"{what} within {name}, {limit_s:g} s; it was killed"
