"""A full /dev/shm: what needs more of it gets an error, and all else goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.drills import full_shared_memory as drill

ROOT = Path(__file__).parents[2]
IN_NAMESPACE = ("unshare", "--mount", "--map-root-user", "--propagation", "private")
TIMEOUT_S = 240


@pytest.mark.timeout(300)
@pytest.mark.drill
def test_a_full_shared_memory_fails_what_does_not_fit_and_nothing_else():
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*IN_NAMESPACE, sys.executable, "-m", "tests.drills.full_shared_memory"], cwd=ROOT,
        env=environ, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    streams, huge = drill.NUM_STREAMS, drill.NUM_HUGE
    large, whole = drill.NUM_LARGE, drill.NUM_WHOLE
    assert found["full"] == {
        "clients": {"length": streams, "triton": huge + whole, "internal": large},
        "server": {"length": streams, "internal": large + whole},
    }, "Triton itself turns the huge ones away, and says that it has no response of the whole ones"
    ended = {"length": streams + large + whole, "invalid_arg": huge}
    assert found["after"] == {"clients": ended, "server": ended}
    assert found["left"] == []
