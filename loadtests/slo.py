"""Service level objectives: what a load test has to keep.

    latency_ms:                 # by entry, of all users or of one kind
      ttft: {p50: 200, p99: 1000}
      websocket itl: {p99: 100}
    max_error_share: 0.01
    goodput: {ttft_ms: 500, tpot_ms: 50, min_share: 0.95}
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from loadtests.ledger import Ledger
from tritonlm.errors import InvalidArgument
from tritonlm.values import float_value

KINDS = ("grpc", "triton-sse", "sse", "websocket", "openai", "embeddings", "batch")
ENTRIES = ("ttft", "itl", "e2e")
LIMITS = ("ttft_ms", "tpot_ms", "e2e_ms")
SHARE = "0 to 1"
PERCENTILE = re.compile(r"p\d+(\.\d+)?")


@dataclass(frozen=True)
class Verdict:
    """One objective, and what was measured."""

    objective: str
    limit: float
    measured: float
    is_met: bool
    """False too where nothing was measured."""


@dataclass(frozen=True)
class Slo:
    """Objectives; the parts that are not given are not looked at."""

    percentiles_ms: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Most milliseconds by entry and percentile: `{"grpc ttft": {"p99": 500}}`."""
    max_error_share: float | None = None
    limits_ms: Mapping[str, float] = field(default_factory=dict)
    """What makes a stream good, by latency: ttft, tpot, e2e."""
    min_good_share: float | None = None

    @classmethod
    def read(cls, path: str) -> Slo:
        """The objectives in a file; raises `InvalidArgument` that names what is wrong in it."""
        try:
            given = yaml.safe_load(Path(path).read_text())
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise InvalidArgument(
                "slo", path, f"{Path(path).name} cannot be read: {error}") from None
        return cls.parse(given)

    @classmethod
    def parse(cls, given: Any) -> Slo:
        """The objectives that `given` says; raises `InvalidArgument`."""
        parts = _mapping("slo", given, ("latency_ms", "max_error_share", "goodput"))
        goodput = parts.get("goodput")
        if goodput is not None:
            goodput = _mapping("goodput", goodput, (*LIMITS, "min_share"))
            if "min_share" not in goodput or len(goodput) < 2:
                raise InvalidArgument("goodput", goodput,
                                      f"it needs min_share and one of {', '.join(LIMITS)}")
        goodput = goodput or {}
        max_error_share = parts.get("max_error_share")
        return cls(
            dict(_percentiles(parts["latency_ms"])) if "latency_ms" in parts else {},
            None if max_error_share is None else _share("max_error_share", max_error_share),
            {name.removesuffix("_ms"): _ms(f"goodput: {name}", value)
             for name, value in goodput.items() if name in LIMITS},
            _share("goodput: min_share", goodput["min_share"]) if goodput else None)

    def verdicts(self, ledger: Ledger) -> Iterator[Verdict]:
        """Each objective against what was seen."""
        for entry, percentiles in self.percentiles_ms.items():
            for name, limit in percentiles.items():
                measured = ledger.of(entry).percentile(float(name[1:]))
                yield Verdict(f"{entry} {name} ms", limit, measured, measured <= limit)
        if self.max_error_share is not None:
            share = ledger.share("failed", "requests")
            yield Verdict("error share", self.max_error_share, share,
                          share <= self.max_error_share)
        if self.min_good_share is not None:
            share = ledger.share("good", "streams")
            yield Verdict("goodput share", self.min_good_share, share,
                          share >= self.min_good_share)


def _percentiles(given: Any) -> Iterator[tuple[str, dict[str, float]]]:
    allowed = {*ENTRIES, *(f"{kind} {entry}" for kind in KINDS for entry in ENTRIES)}
    for entry, limits in _mapping("latency_ms", given, allowed).items():
        place = f"latency_ms: {entry}"
        percentiles = {}
        for name, limit in _mapping(place, limits).items():
            if not (PERCENTILE.fullmatch(str(name)) and 0 < float(name[1:]) <= 100):
                raise InvalidArgument(place, name, "allowed: p50, p99, p99.9, ...")
            percentiles[name] = _ms(f"{place}: {name}", limit)
        yield entry, percentiles


def _mapping(name: str, given: Any, allowed: Any = None) -> Mapping[Any, Any]:
    known = f"allowed: {', '.join(sorted(allowed))}" if allowed else "allowed: NAME: VALUE"
    if not isinstance(given, dict) or not given:
        raise InvalidArgument(name, given, f"it must be a mapping; {known}")
    for key in given:
        if allowed and key not in allowed:
            raise InvalidArgument(name, key, known)
    return given


def _ms(name: str, value: Any) -> float:
    ms = float_value(name, value, "milliseconds above 0")
    if ms <= 0:
        raise InvalidArgument(name, value, "allowed: milliseconds above 0")
    return ms


def _share(name: str, value: Any) -> float:
    share = float_value(name, value, SHARE)
    if not 0 <= share <= 1:
        raise InvalidArgument(name, value, f"allowed: {SHARE}")
    return share
