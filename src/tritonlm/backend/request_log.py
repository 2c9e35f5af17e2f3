"""Lines of log about requests that are over, each with the request's id."""

from __future__ import annotations

import logging
from typing import Any

from tritonlm.logs import fields

LOG = logging.getLogger(__name__)


class RequestLog:
    """The log of one model's requests."""

    def __init__(self, model: str, logs_all: bool) -> None:
        """`logs_all`: a line for each request; else for those that fail."""
        self._model = model
        self._logs_all = logs_all

    def tell(
        self, request_id: str, outcome: str, reason: str | None, total_s: float, error: str = "",
        **known: Any,
    ) -> None:
        """A request is over: it has finished, was refused, or has failed with `error`."""
        if self._logs_all or outcome == "failed":
            LOG.log(logging.WARNING if outcome == "failed" else logging.INFO, error or "request",
                    extra=fields(request_id=request_id, model=self._model, outcome=outcome,
                                 reason=reason, seconds=round(total_s, 4), **known))
