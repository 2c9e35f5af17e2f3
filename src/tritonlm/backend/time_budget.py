"""Where the time of one request went."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, field

MS = 1000


@dataclass
class TimeBudget:
    """Times on the monotonic clock, which engine and front end share; NaN: it did not happen."""

    received_s: float = field(default_factory=time.monotonic)
    admitted_s: float = math.nan
    first_token_s: float = math.nan
    """When the engine had the first token."""
    last_token_s: float = math.nan
    first_send_s: float = math.nan
    """When the first response was handed to Triton."""
    detokenize_s: float = 0.0
    send_s: float = 0.0
    num_cached_tokens: int = 0

    @property
    def queue_s(self) -> float:
        """From the arrival in the front end until the engine began."""
        return self.admitted_s - self.received_s

    def begin(self, admitted_s: float, first_token_s: float, num_cached_tokens: int) -> None:
        """The engine has the first token; what it says of further sequences is left out."""
        if math.isnan(self.admitted_s):
            self.admitted_s, self.first_token_s = admitted_s, first_token_s
            self.num_cached_tokens = num_cached_tokens

    def to_json(self, num_prompt_tokens: int, num_output_tokens: int) -> str:
        """Milliseconds up to now, null for what did not happen, and numbers of tokens."""
        spans_s = {
            "queue_ms": self.queue_s,
            "prefill_ms": self.first_token_s - self.admitted_s,
            "decode_ms": self.last_token_s - self.first_token_s,
            "detokenize_ms": self.detokenize_s,
            "send_ms": self.send_s,
            "total_ms": time.monotonic() - self.received_s,
        }
        return json.dumps({name: None if math.isnan(span_s) else round(span_s * MS, 3)
                           for name, span_s in spans_s.items()} | {
            "num_prompt_tokens": num_prompt_tokens,
            "num_cached_tokens": self.num_cached_tokens,
            "num_output_tokens": num_output_tokens,
        })
