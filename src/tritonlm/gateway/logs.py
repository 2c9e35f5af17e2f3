"""Where a worker's log goes: lines on stderr, those of requests in JSON."""

from __future__ import annotations

import logging


def configure() -> None:
    """Have the package's log written, once."""
    for name, level, form in (
        ("tritonlm.access", logging.INFO, "%(message)s"),
        ("tritonlm", logging.WARNING, "%(levelname)s %(name)s: %(message)s"),
    ):
        logger = logging.getLogger(name)
        if not logger.handlers:
            handler = logging.StreamHandler()
            handler.setFormatter(logging.Formatter(form))
            logger.addHandler(handler)
            logger.setLevel(level)
    logging.getLogger("tritonlm.access").propagate = False
