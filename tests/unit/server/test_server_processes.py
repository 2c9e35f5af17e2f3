"""Processes of a run, as the first process of a container sees them."""

from __future__ import annotations

import subprocess
import sys

FIRST_OF_A_CONTAINER = """
import ctypes, os, subprocess, time
import psutil
from tritonlm.server import processes

PR_SET_CHILD_SUBREAPER = 36
assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
mine = subprocess.Popen(["sh", "-c", "exit 7"], start_new_session=True)
subprocess.run(["sh", "-c", "sleep 0.1 & sleep 0.1 &"], start_new_session=True)
zombies = lambda: [each for each in psutil.Process().children()
                   if each.status() == psutil.STATUS_ZOMBIE]
deadline_s = time.monotonic() + 20
while len(zombies()) < 3 and time.monotonic() < deadline_s:
    time.sleep(0.02)
assert len(zombies()) == 3
processes.reap_orphans()
assert [each.pid for each in zombies()] == [mine.pid]
assert mine.wait() == 7
"""


def test_processes_that_lost_their_parent_do_not_stay_as_zombies():
    done = subprocess.run([sys.executable, "-c", FIRST_OF_A_CONTAINER], capture_output=True,
                          text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
