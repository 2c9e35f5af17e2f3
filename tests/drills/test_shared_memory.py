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


@pytest.mark.drill
def test_a_full_shared_memory_fails_what_does_not_fit_and_nothing_else():
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*IN_NAMESPACE, sys.executable, "-m", "tests.drills.full_shared_memory"], cwd=ROOT,
        env=environ, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    streams, huge, large = drill.NUM_STREAMS, drill.NUM_HUGE, drill.NUM_LARGE
    assert found["full"] == {
        "clients": {"length": streams, "triton": huge, "internal": large},
        "server": {"length": streams, "internal": large}}, "Triton itself turns the huge ones away"
    ended = {"length": streams + large, "invalid_arg": huge}
    assert found["after"] == {"clients": ended, "server": ended}
    assert found["left"] == []
