"""What the engine is measured against."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Peer:
    """Another server at the same work."""

    name: str
    output_tokens_per_s: float
    tpot_median_ms: float
    ttft_median_ms: float
    ttft_p99_ms: float


PEER_SETTING = ("vLLM 0.26.0: `vllm serve` and `vllm bench serve` on one NVIDIA H200 with 16 "
                "cores, over HTTP; ours is measured without a network. The bars are for that GPU.")
PEERS: dict[tuple[str, int], tuple[Peer, ...]] = {
    ("Q06", 1): (Peer("vLLM", 573, 1.65, 18, 50),),
    ("Q06", 32): (Peer("vLLM", 11_986, 2.27, 95, 130),),
    ("Q06", 256): (Peer("vLLM", 18_812, 11.9, 423, 897),
                   Peer("vLLM, 4 API servers", 28_322, 8.4, 140, 619),
                   Peer("vLLM, 4 API servers, 4 clients", 29_300, 8.5, 115, 240)),
    ("L8", 1): (Peer("vLLM", 203, 4.86, 22, 35),),
    ("L8", 32): (Peer("vLLM", 4_384, 6.18, 280, 403),),
    ("L8", 256): (Peer("vLLM", 9_717, 22.8, 788, 3_253),),
}
"""By shape and concurrency; 512 prompt and 256 output tokens, greedy, no prefix caching."""

BARS: dict[tuple[str, int], float] = {
    ("Q06", 1): 780, ("Q06", 32): 14_500, ("Q06", 256): 34_000,
    ("L8", 1): 217, ("L8", 32): 4_900, ("L8", 256): 10_800,
}
"""Output tokens per second that the engine is to reach on one H200, by shape and concurrency."""

URGENT_BAR_STEPS = 3
"""Within so many steps, its own prefill among them, an urgent request has its first token."""

GENERATE_BARS: dict[int, float] = {1: 1.0, 16: 3.0}
"""How many times as fast as `generate` on one prompt after another, by concurrent requests."""

TASK_BARS = {"dynamic batcher": 2.5, "length buckets": 1.3}
"""How many times as fast as one embed by one, and as batches padded to their longest row."""


def verdict(measured: float, bar: float | None) -> str:
    """What a table says about `measured`."""
    if bar is None:
        return ""
    return "met" if measured >= bar else "missed"
