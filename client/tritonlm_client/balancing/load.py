"""How busy a server is, read from its page of metrics."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SAMPLE = re.compile(r"^(tritonlm_\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
FAILED = 'outcome="failed"'


@dataclass(frozen=True)
class Load:
    """What a server is doing; times and shares are of the last while."""

    num_waiting: float = 0.0
    num_running: float = 0.0
    kv_usage: float = 0.0
    """Share of the KV cache that is in use, of the fullest engine: 0 to 1."""
    first_token_s: float | None = None
    """Mean time to the first token; None if there was none."""
    failed_share: float = 0.0
    """Of the requests that ended."""

    @classmethod
    def mean(cls, loads: Sequence[Load]) -> Load:
        """What a server may be thought to do beside others of `loads`; of none, nothing."""
        num = max(len(loads), 1)
        return cls(sum(load.num_waiting for load in loads) / num,
                   sum(load.num_running for load in loads) / num,
                   sum(load.kv_usage for load in loads) / num)


class LoadMeter:
    """Reads one server's pages, each of which counts since the server's start."""

    def __init__(self) -> None:
        self._totals: Mapping[str, float] = {}
        self._load = Load()

    def read(self, page: str) -> Load:
        """The load that `page` tells, with times since the page before."""
        sums, largest = _samples(page)
        grown = {name: value - self._totals.get(name, 0.0) for name, value in sums.items()}
        is_restarted = any(value < 0 for name, value in grown.items() if name in _COUNTERS)
        if not self._totals or is_restarted:
            grown = {}
        self._totals = sums
        num_first = grown.get(_FIRST_TOKENS, 0.0)
        num_ended = grown.get(_ENDED, 0.0)
        self._load = Load(
            num_waiting=sums.get("tritonlm_requests_waiting", 0.0),
            num_running=sums.get("tritonlm_requests_running", 0.0),
            kv_usage=largest.get("tritonlm_kv_cache_usage_ratio", 0.0),
            # With nothing new, what was last seen is the best guess.
            first_token_s=(grown[_FIRST_TOKEN_S] / num_first if num_first > 0
                           else self._load.first_token_s),
            failed_share=grown.get(_FAILED, 0.0) / num_ended if num_ended > 0 else 0.0,
        )
        return self._load


_FIRST_TOKENS = "tritonlm_time_to_first_token_seconds_count"
_FIRST_TOKEN_S = "tritonlm_time_to_first_token_seconds_sum"
_ENDED = "tritonlm_requests_total"
_FAILED = f"{_ENDED}{{{FAILED}}}"
_COUNTERS = frozenset({_FIRST_TOKENS, _FIRST_TOKEN_S, _ENDED, _FAILED})


def _samples(page: str) -> tuple[dict[str, float], dict[str, float]]:
    """Sum and largest of each metric's samples."""
    sums: dict[str, float] = defaultdict(float)
    largest: dict[str, float] = {}
    for name, labels, text in SAMPLE.findall(page):
        value = float(text)
        sums[name] += value
        largest[name] = max(value, largest.get(name, value))
        if name == _ENDED and FAILED in labels:
            sums[_FAILED] += value
    return dict(sums), largest
