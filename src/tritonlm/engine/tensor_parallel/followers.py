"""The followers' processes on one machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

MODULE = "tritonlm.engine.tensor_parallel.follower"
WATCH_INTERVAL_S = 0.2
QUIET = {"TORCH_CPP_LOG_LEVEL": "ERROR"}
"""Otherwise torch shows a stack when the leader ends, which is how a follower ends."""
Followers = dict[int, subprocess.Popen[bytes]]
"""By rank."""


def start_followers(address: str, ranks: Sequence[int], place: int) -> Followers:
    """Have those of `ranks` come to the leader at `address`; on this machine's places from `place`.

    They end with the thread that calls this.
    """
    return {rank: subprocess.Popen(
        [sys.executable, "-m", MODULE, address, str(rank), str(place + index), str(os.getpid())],
        stdin=subprocess.DEVNULL, env=QUIET | os.environ) for index, rank in enumerate(ranks)}


def wait_for_any(followers: Mapping[int, subprocess.Popen[bytes]]) -> str:
    """Return when one of them has ended: which, and how."""
    while True:
        for rank, follower in followers.items():
            code = follower.poll()
            if code is not None:
                return f"follower {rank} has ended with exit code {code}"
        time.sleep(WATCH_INTERVAL_S)
