"""Where a worker's log goes: lines on stderr, those of requests in JSON."""

from __future__ import annotations

import logging

from tritonlm import logs


def configure(form: str) -> None:
    """Have what we and our libraries log written, in one of `logs.FORMS`."""
    logs.configure("gateway", form)
    access = logging.getLogger("tritonlm.access")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    access.handlers[:] = [handler]
    access.setLevel(logging.INFO)
    access.propagate = False
