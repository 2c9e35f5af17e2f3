"""What a load test keeps of its latencies."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from loadtests.ledger import Histogram, Ledger

from tritonlm.bench.seen import Seen


def test_percentiles_are_known_to_half_a_percent():
    values = np.random.default_rng(0).lognormal(3, 2, 20_000)
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    assert histogram.total == 20_000
    for percent in (1, 50, 90, 99, 100):
        exact = np.percentile(values, percent, method="inverted_cdf")
        assert histogram.percentile(percent) == pytest.approx(exact, rel=0.0051)


def test_times_of_zero_are_taken():
    histogram = Histogram()
    histogram.add(0.0)
    assert histogram.percentile(50) == pytest.approx(0.001, rel=0.01)
    assert math.isnan(Histogram().percentile(50))


def test_ledgers_of_processes_add_up_to_that_of_one():
    whole, workers, master = Ledger(), [Ledger(), Ledger()], Ledger()
    for number in range(1, 101):
        for one in (whole, workers[number % 2]):
            one.add("grpc", "ttft", number)
            one.count(Seen(0.0, (number / 10,)), is_stream=True, limits_ms={"ttft": 5000})
    for worker in workers:
        master.merge(json.loads(json.dumps(worker.take())))  # as it goes between processes
        assert not worker.counts
        assert worker.take() == {"counts": {}, "latencies_ms": {}}
    assert master.counts == whole.counts
    assert master.counts["good"] == 50
    assert master.of("ttft").counts == whole.of("grpc ttft").counts
