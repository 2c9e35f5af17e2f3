"""When requests are sent."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def arrival_times_s(
    num_requests: int, rate: float | None, burstiness: float, seed: int
) -> NDArray[np.float64]:
    """Seconds after the start; all 0 without a rate.

    Intervals are drawn from a gamma distribution of shape `burstiness`: 1 makes a Poisson process,
    less makes bursts, more makes it even. They are scaled so that the last request comes when the
    rate says: chance changes the pattern and not the load.
    """
    if rate is None or not num_requests:
        return np.zeros(num_requests)
    intervals_s = np.random.default_rng(seed).gamma(burstiness, 1 / (rate * burstiness),
                                                    num_requests)
    times_s: NDArray[np.float64] = np.cumsum(intervals_s)
    times_s *= num_requests / rate / times_s[-1]
    return times_s
