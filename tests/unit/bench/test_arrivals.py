"""When the requests of an open loop are sent."""

from __future__ import annotations

import numpy as np
import pytest

from tritonlm.bench.arrivals import arrival_times_s

COUNT, RATE = 20_000, 50.0


def intervals_s(burstiness):
    return np.diff(arrival_times_s(COUNT, RATE, burstiness, seed=1), prepend=0)


def test_without_a_rate_all_are_due_at_once():
    assert arrival_times_s(3, None, 1.0, seed=0).tolist() == [0, 0, 0]


def test_the_rate_is_kept_exactly():
    times_s = arrival_times_s(200, 40.0, 1.0, seed=3)
    assert times_s[-1] == pytest.approx(200 / 40)
    assert np.all(np.diff(times_s) >= 0)


def test_intervals_of_a_poisson_process_are_exponential():
    intervals = intervals_s(1.0)
    assert intervals.std() * RATE == pytest.approx(1, rel=0.05)
    for quantile in (0.1, 0.5, 0.9):
        exponential = -np.log(1 - quantile) / RATE
        assert np.quantile(intervals, quantile) == pytest.approx(exponential, rel=0.05)


@pytest.mark.parametrize("burstiness", [0.25, 4.0])
def test_burstiness_sets_the_variation(burstiness):
    variation = intervals_s(burstiness).std() * RATE
    assert variation == pytest.approx(burstiness ** -0.5, rel=0.05)


def test_a_seed_gives_the_same_times():
    assert np.array_equal(arrival_times_s(9, 5.0, 1.0, 7), arrival_times_s(9, 5.0, 1.0, 7))
    assert not np.array_equal(arrival_times_s(9, 5.0, 1.0, 7), arrival_times_s(9, 5.0, 1.0, 8))
