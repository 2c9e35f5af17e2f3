"""Which requests are good: those that keep all of some limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tritonlm.bench.seen import Seen
from tritonlm.errors import InvalidArgument
from tritonlm.values import float_value

LATENCIES = ("ttft", "tpot", "e2e")
ALLOWED = f"NAME:MILLISECONDS, where NAME is one of {', '.join(LATENCIES)}"


def parse_limits(texts: Sequence[str]) -> dict[str, float]:
    """Milliseconds by latency of texts such as `ttft:200 tpot:20`; raises `InvalidArgument`."""
    limits: dict[str, float] = {}
    for text in " ".join(texts).split():
        name, _, value = text.partition(":")
        if name not in LATENCIES or name in limits:
            raise InvalidArgument("goodput", text, f"allowed: {ALLOWED}, each once")
        limits[name] = float_value("goodput", value, ALLOWED)
        if limits[name] <= 0:
            raise InvalidArgument("goodput", text, "allowed: milliseconds above 0")
    return limits


def is_good(seen: Seen, limits_ms: Mapping[str, float]) -> bool:
    """Whether a request went well within all limits."""
    return not seen.error and all(
        getattr(seen, f"{name}_ms") <= limit_ms for name, limit_ms in limits_ms.items())
