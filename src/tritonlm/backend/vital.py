"""Threads without which a process is of no use."""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable

EXIT_CODE = 70


def vital_thread(run: Callable[[], None], name: str) -> threading.Thread:
    """A thread that ends its process should `run` raise: what is dead must not look alive."""
    def run_or_end() -> None:
        try:
            run()
        except BaseException:
            traceback.print_exc()
            os._exit(EXIT_CODE)

    return threading.Thread(target=run_or_end, name=name, daemon=True)
