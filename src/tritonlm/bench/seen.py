"""What a client has seen of a request: when each piece of its answer came.

request sent ── TTFT ──► chunk ── ITL ──► chunk ── ITL ──► ... ──► last chunk
     └────────────────────────── E2E ─────────────────────────────────┘
TPOT = (E2E - TTFT) / (output tokens - 1)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

MS = 1000


@dataclass(frozen=True)
class Seen:
    """What became of a request; times on the monotonic clock, which processes share."""

    started_s: float
    chunks_s: Sequence[float] = ()
    """When each chunk came."""
    num_input_tokens: int = 0
    num_output_tokens: int = 0
    error: str = ""
    late_s: float = 0.0
    """How long after its time it was sent, if it had one."""

    @property
    def ttft_ms(self) -> float:
        """Time to the first token."""
        return (self.chunks_s[0] - self.started_s) * MS

    @property
    def tpot_ms(self) -> float:
        """Time per output token after the first; 0 where there is no other."""
        if self.num_output_tokens < 2:
            return 0.0
        return (self.chunks_s[-1] - self.chunks_s[0]) / (self.num_output_tokens - 1) * MS

    @property
    def itl_ms(self) -> list[float]:
        """Inter-token latencies: from each chunk to the next, however many tokens it brings."""
        return [(later - earlier) * MS for earlier, later in
                zip(self.chunks_s, self.chunks_s[1:], strict=False)]

    @property
    def e2e_ms(self) -> float:
        """End to end, to the last token."""
        return (self.chunks_s[-1] - self.started_s) * MS


@dataclass
class Watch:
    """What has been seen of a request so far."""

    started_s: float
    chunks_s: list[float] = field(default_factory=list)
    num_input_tokens: int = 0
    num_output_tokens: int = 0
    error: str = ""

    def seen(self) -> Seen:
        """All of it; an answer that brought nothing is an error."""
        error = self.error if self.chunks_s else self.error or "the answer was empty"
        return Seen(self.started_s, self.chunks_s, self.num_input_tokens,
                    self.num_output_tokens, error)
