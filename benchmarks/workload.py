"""Requests of random tokens, and what a run of them measures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.closed_loop import Timeline
from tritonlm.engine.messages import NORMAL, Submit

MS = 1000


@dataclass(frozen=True)
class Workload:
    """Greedy requests of one length, `concurrency` of them at a time."""

    concurrency: int
    num_requests: int
    num_prompt_tokens: int = 512
    num_output_tokens: int = 256

    def requests(self, vocab_size: int, seed: int) -> list[Submit]:
        """The requests; prompts of another seed have no beginning in common with these."""
        random = np.random.default_rng(seed)
        prompts = random.integers(0, vocab_size, (self.num_requests, self.num_prompt_tokens))
        return [request(key, prompt, self.num_output_tokens) for key, prompt in enumerate(prompts)]


def request(
    key: int, prompt: NDArray[np.int64], num_output_tokens: int, priority: int = NORMAL
) -> Submit:
    """A greedy request that does not stop before its last token."""
    return Submit(key, "", prompt.astype(np.int32).tobytes(), num_output_tokens, temperature=0.0,
                  ignore_eos=True, priority=priority)


@dataclass(frozen=True)
class Speed:
    """What is measured of a run: of tokens per second, of a token, and of a first token."""

    output_tokens_per_s: float
    tpot_median_ms: float
    """Time per output token after the first, of the median request."""
    ttft_median_ms: float
    """Time to the first token."""
    ttft_p99_ms: float
    wall_s: float
    num_steps: int
    step_ms: float
    """Mean."""

    @classmethod
    def of(cls, timeline: Timeline, num_steps: int) -> Speed:
        """The speed of a run in which every request ended, each with two tokens at least."""
        ttft_ms = (timeline.first_s - timeline.submitted_s) * MS
        tpot_ms = (timeline.last_s - timeline.first_s) / (timeline.num_tokens - 1) * MS
        wall_s = float(timeline.last_s.max() - timeline.submitted_s.min())
        return cls(
            output_tokens_per_s=float(timeline.num_tokens.sum()) / wall_s,
            tpot_median_ms=float(np.median(tpot_ms)),
            ttft_median_ms=float(np.median(ttft_ms)),
            ttft_p99_ms=float(np.percentile(ttft_ms, 99)),
            wall_s=wall_s,
            num_steps=num_steps,
            step_ms=wall_s / num_steps * MS,
        )
