"""What a load test has seen, small however long it runs, and adding up over processes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tritonlm.bench.goodput import is_good
from tritonlm.bench.seen import Seen

PRECISION = 1.01
"""From each value of a histogram to the next."""


class Histogram:
    """Counts of values, each known to half a percent."""

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self.counts = Counter(counts or {})

    def add(self, value: float) -> None:
        """Count `value`; what is below a microsecond is one."""
        self.counts[round(math.log(max(value, 1e-3), PRECISION))] += 1

    @property
    def total(self) -> int:
        """How many there are."""
        return self.counts.total()

    def percentile(self, percent: float) -> float:
        """The least value that so many percent do not exceed; NaN without values."""
        left = max(1, math.ceil(round(self.total * percent / 100, 6)))
        for bucket in sorted(self.counts):
            left -= self.counts[bucket]
            if left <= 0:
                return float(PRECISION ** bucket)
        return math.nan


@dataclass
class Ledger:
    """Latencies by entry, and what became of requests."""

    latencies_ms: dict[str, Histogram] = field(default_factory=dict)
    """By `KIND ENTRY`, such as `grpc ttft`."""
    counts: Counter[str] = field(default_factory=Counter)
    """`requests`, those that `failed`, those that were `streams`, and the `good` ones of these."""

    def add(self, kind: str, entry: str, ms: float) -> None:
        """Count a latency."""
        self.latencies_ms.setdefault(f"{kind} {entry}", Histogram()).add(ms)

    def count(self, seen: Seen, is_stream: bool, limits_ms: Mapping[str, float]) -> None:
        """Count a request that was neither aborted nor read slowly; limits are of the goodput."""
        self.counts["requests"] += 1
        self.counts["failed"] += bool(seen.error)
        self.counts["streams"] += is_stream
        self.counts["good"] += is_stream and is_good(seen, limits_ms)

    def of(self, name: str) -> Histogram:
        """Latencies of an entry of a kind of users (`grpc ttft`), or of all kinds (`ttft`)."""
        joined = Histogram()
        for key, histogram in self.latencies_ms.items():
            if name in {key, key.partition(" ")[2]}:
                joined.counts += histogram.counts
        return joined

    def take(self) -> dict[str, Any]:
        """All of it as plain values for another process; nothing is left."""
        taken = {"counts": dict(self.counts), "latencies_ms": {
            name: list(histogram.counts.items())
            for name, histogram in self.latencies_ms.items()}}
        self.counts.clear()
        self.latencies_ms.clear()
        return taken

    def merge(self, taken: Mapping[str, Any]) -> None:
        """Add what another process has taken from its own."""
        self.counts.update(taken["counts"])
        for name, counts in taken["latencies_ms"].items():
            mine = self.latencies_ms.setdefault(name, Histogram())
            for bucket, count in counts:
                mine.counts[bucket] += count

    def share(self, part: str, whole: str) -> float:
        """Of one count in another; NaN of nothing."""
        return self.counts[part] / self.counts[whole] if self.counts[whole] else math.nan
