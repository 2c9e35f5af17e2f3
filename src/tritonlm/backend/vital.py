"""Threads without which a process is of no use."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

EXIT_CODE = 70
LOG = logging.getLogger(__name__)


def vital_thread(run: Callable[[], None], name: str) -> threading.Thread:
    """A thread that ends its process should `run` raise: what is dead must not look alive."""
    def run_or_end() -> None:
        try:
            run()
        except BaseException as error:
            LOG.critical("the %s has ended, and its process with it: %r", name, error,
                         exc_info=True)
            os._exit(EXIT_CODE)

    return threading.Thread(target=run_or_end, name=name, daemon=True)
