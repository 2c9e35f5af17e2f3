"""What is told of a request that is over: counted always, logged and traced if that is asked for.

Belongs to the sending thread, and costs the requests that run nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

from tritonlm.backend.generation import Answer, Generation
from tritonlm.backend.metrics import FrontEndMetrics
from tritonlm.backend.request_log import RequestLog
from tritonlm.backend.time_budget import TimeBudget
from tritonlm.tracing import Stage, Tracer


class Epilogue:
    """Tells of the requests of one front end."""

    def __init__(
        self, model: str, metrics: FrontEndMetrics, tracer: Tracer | None, logs_all: bool
    ) -> None:
        """`logs_all`: a line of log for each request; else for those that fail."""
        self._model = model
        self._metrics = metrics
        self._tracer = tracer
        self._log = RequestLog(model, logs_all)

    def tell(
        self, answer: Answer, outcome: str, reason: str, generation: Generation | None = None,
        error: str = "",
    ) -> None:
        """A request has ended; what never came to be a generation has no tokens."""
        now_s = time.monotonic()
        total_s = now_s - answer.budget.received_s
        self._metrics.count("tritonlm_requests_total", outcome, reason)
        self._metrics.observe("tritonlm_request_seconds", total_s)
        num_input = generation.num_prompt_tokens if generation else None
        num_output = generation.num_output_tokens if generation else None
        self._log.tell(answer.request_id, outcome, reason, total_s, error,
                       input_tokens=num_input, output_tokens=num_output)
        if self._tracer is not None:
            stages = list(_stages(answer.budget, now_s)) if generation else []
            self._trace(self._tracer, answer, now_s, stages, error, {
                "gen_ai.response.finish_reasons": [reason],
                "gen_ai.usage.input_tokens": num_input, "gen_ai.usage.output_tokens": num_output})

    def close(self) -> None:
        """Send what has not been sent yet."""
        if self._tracer is not None:
            self._tracer.close()

    def _trace(
        self, tracer: Tracer, answer: Answer, now_s: float, stages: list[Stage], error: str,
        known: dict[str, Any],
    ) -> None:
        budget = answer.budget
        attributes: dict[str, Any] = {
            **known, "gen_ai.operation.name": "text_completion",
            "gen_ai.request.model": self._model, "gen_ai.response.id": answer.request_id,
            "tritonlm.cached_tokens": budget.num_cached_tokens,
            "tritonlm.detokenize_seconds": budget.detokenize_s,
            "tritonlm.send_seconds": budget.send_s,
        }
        tracer.record(Stage(self._model, budget.received_s, now_s), answer.traceparent,
                      stages, attributes, error)


def _stages(budget: TimeBudget, now_s: float) -> Iterator[Stage]:
    """From the arrival to the engine, its first step, the others, and meanwhile the sending.

    A stage that was not over when the request ended, ends with it.
    """
    marks = [budget.received_s, budget.admitted_s, budget.first_token_s, budget.last_token_s]
    for name, begin_s, end_s in zip(("queue", "prefill", "decode"), marks, marks[1:],
                                    strict=False):
        if not math.isnan(begin_s):
            yield Stage(name, begin_s, now_s if math.isnan(end_s) else end_s)
    if not math.isnan(budget.first_send_s):
        yield Stage("send", budget.first_send_s, now_s)
