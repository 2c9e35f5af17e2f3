"""What a load measures: rates, and distributions of latencies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tritonlm.bench.goodput import is_good
from tritonlm.bench.seen import MS, Seen

NAN = float("nan")


@dataclass(frozen=True)
class Distribution:
    """Of some milliseconds; NaN where there are none."""

    mean: float
    median: float
    p90: float
    p99: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Distribution:
        """Their mean, and percentiles with linear interpolation."""
        if not values:
            return cls(NAN, NAN, NAN, NAN)
        return cls(float(np.mean(values)), *np.percentile(values, (50, 90, 99)).tolist())


@dataclass(frozen=True)
class Summary:
    """What clients see of a server under a load; rates are of requests that did not fail."""

    num_requests: int
    num_failed: int
    num_input_tokens: int
    num_output_tokens: int
    num_chunks: int
    duration_s: float
    """From the first request to the last chunk; NaN where all have failed."""
    ttft_ms: Distribution
    tpot_ms: Distribution
    """A value for each request of two output tokens or more."""
    itl_ms: Distribution
    """A value for each chunk but a request's first."""
    e2e_ms: Distribution
    late_ms: Distribution
    """After the times of an open loop: what the client, or its limit, has held requests up."""
    good_share: float | None
    """Of all requests, those within the limits of the goodput; None without any."""
    first_error: str

    @classmethod
    def of(cls, seen: Sequence[Seen], limits_ms: Mapping[str, float] | None = None) -> Summary:
        """The summary of all requests of a load, `seen`; limits are those of the goodput."""
        well = [one for one in seen if not one.error]
        num_good = sum(is_good(one, limits_ms or {}) for one in seen)
        end_s = max((one.chunks_s[-1] for one in well), default=NAN)
        return cls(
            num_requests=len(seen), num_failed=len(seen) - len(well),
            num_input_tokens=sum(one.num_input_tokens for one in well),
            num_output_tokens=sum(one.num_output_tokens for one in well),
            num_chunks=sum(len(one.chunks_s) for one in well),
            duration_s=end_s - min((one.started_s for one in seen), default=NAN),
            ttft_ms=Distribution.of([one.ttft_ms for one in well]),
            tpot_ms=Distribution.of([one.tpot_ms for one in well if one.num_output_tokens > 1]),
            itl_ms=Distribution.of([ms for one in well for ms in one.itl_ms]),
            e2e_ms=Distribution.of([one.e2e_ms for one in well]),
            late_ms=Distribution.of([one.late_s * MS for one in seen]),
            good_share=num_good / len(seen) if limits_ms and seen else None,
            first_error=next((one.error for one in seen if one.error), ""))

    @property
    def requests_per_s(self) -> float:
        """Requests that went well."""
        return (self.num_requests - self.num_failed) / self.duration_s

    @property
    def output_tokens_per_s(self) -> float:
        """Tokens that the server wrote."""
        return self.num_output_tokens / self.duration_s

    @property
    def total_tokens_per_s(self) -> float:
        """Tokens that it read or wrote."""
        return (self.num_input_tokens + self.num_output_tokens) / self.duration_s

    @property
    def chunks_per_s(self) -> float:
        """Pieces of answers."""
        return self.num_chunks / self.duration_s

    @property
    def tokens_per_chunk(self) -> float:
        """Output tokens in the mean piece."""
        return self.num_output_tokens / max(self.num_chunks, 1)

    @property
    def good_requests_per_s(self) -> float | None:
        """Goodput."""
        if self.good_share is None:
            return None
        return self.good_share * self.num_requests / self.duration_s
