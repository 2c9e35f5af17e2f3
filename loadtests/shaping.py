"""Locust's users over time, by the setting `shape`."""

from __future__ import annotations

from typing import Any

from locust import LoadTestShape

from loadtests.shapes import SHAPES

END = 0.999


class ChosenShape(LoadTestShape):
    """--users at most, for --run-time; without a time, the number that the shape ends with."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        """How many users there are to be, and how many may come a second."""
        assert self.runner is not None
        options: Any = self.runner.environment.parsed_options
        run_s: float = self.get_run_time()  # type: ignore[no-untyped-call]
        part = run_s / options.run_time if options.run_time else END
        if part >= 1:
            return None
        most = options.num_users or 1
        return SHAPES[options.shape](part, most), options.spawn_rate or most
