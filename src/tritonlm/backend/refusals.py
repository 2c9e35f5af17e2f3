"""Counts the requests that end before they come to a front end."""

from __future__ import annotations

import triton_python_backend_utils as pb_utils

from tritonlm.backend.metric_definitions import METRICS
from tritonlm.errors import InvalidArgument, ServingError

NAME = "tritonlm_requests_total"


class Refusals:
    """Of one instance of a model; one thread counts."""

    def __init__(self, model: str, instance: str) -> None:
        # A family must outlive its metrics.
        self._family = pb_utils.MetricFamily(NAME, METRICS[NAME].description,
                                             pb_utils.MetricFamily.COUNTER)
        self._counters = {code: self._family.Metric(labels={
            "model": model, "front_end": instance, "outcome": "refused", "reason": code.lower(),
        }) for code in (InvalidArgument.code, ServingError.code)}

    def count(self, error: Exception) -> None:
        """A request has ended with `error`; what nobody has raised on purpose is internal."""
        code = error.code if isinstance(error, InvalidArgument) else ServingError.code
        self._counters[code].increment(1)

    def close(self) -> None:
        """Take them off the page."""
        self._counters.clear()
        del self._family
