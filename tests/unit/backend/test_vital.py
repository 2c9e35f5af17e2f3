"""A thread that must not fail unseen."""

from __future__ import annotations

import json
import subprocess
import sys

from tritonlm.backend.vital import EXIT_CODE

SCRIPT = """
import time
from tritonlm.logs import configure
from tritonlm.backend.vital import vital_thread
configure("generate_0_0", "json")
thread = vital_thread(lambda: {}, "worker")
thread.start()
thread.join()
time.sleep(0.2)
print("alive")
"""


def run(what):
    return subprocess.run([sys.executable, "-c", SCRIPT.format(what)], capture_output=True,
                          text=True, check=False, timeout=60)


def test_a_process_ends_with_a_vital_thread_that_fails():
    done = run("1 / 0")
    assert (done.returncode, done.stdout) == (EXIT_CODE, "")
    told = json.loads(done.stderr)
    assert told["message"].startswith("the worker has ended, and its process with it: ZeroDivision")
    assert "Traceback" in told["exception"]


def test_a_thread_may_return():
    assert run("None").stdout == "alive\n"
