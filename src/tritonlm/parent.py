"""A process that does not outlive the one that started it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def end_with_parent(sent: signal.Signals, parent: int | None = None) -> None:
    """Have the kernel send `sent` to this process when the thread that started it ends.

    `parent`: the process that started this one, if it is known. Exits at once if it is gone.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, sent)
    is_orphan = os.getppid() == 1 if parent is None else os.getppid() != parent
    if is_orphan:  # it was too late for that
        sys.exit("the process that started this one is gone")
