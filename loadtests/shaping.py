"""Locust's users over time, by the setting `shape`."""

from __future__ import annotations

from typing import Any

from locust import LoadTestShape
from locust.runners import WORKER_REPORT_INTERVAL, MasterRunner, Runner

from loadtests.shapes import SHAPES

END = 0.999
LAST_REPORTS_S = 1.2 * WORKER_REPORT_INTERVAL
"""In which every worker tells its master once more."""


class ChosenShape(LoadTestShape):
    """--users at most, for --run-time; without a time, the number that the shape ends with.

    At the end users leave as they end their requests. Locust itself would quit at once, and what
    its workers have not told by then would be lost.
    """

    use_common_options = True
    _empty_s: float | None = None
    """When the last user had left."""

    def tick(self) -> tuple[int, float] | None:
        """How many users there are to be, and how many may come a second."""
        assert self.runner is not None
        options: Any = self.runner.environment.parsed_options
        run_s: float = self.get_run_time()  # type: ignore[no-untyped-call]
        part = run_s / options.run_time if options.run_time else END
        most = options.num_users or 1
        rate = options.spawn_rate or most
        if part < 1:
            self._empty_s = None
            return SHAPES[options.shape](part, most), rate
        return None if self._is_over(self.runner, run_s) else (0, rate)

    def _is_over(self, runner: Runner, run_s: float) -> bool:
        if runner.user_count:
            return False
        if self._empty_s is None:
            self._empty_s = run_s
        is_spread = isinstance(runner, MasterRunner)
        return not is_spread or run_s > self._empty_s + LAST_REPORTS_S
