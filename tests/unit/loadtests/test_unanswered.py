"""A server that does not answer any more has not kept its objectives."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from event_server import event, serve_events

ROOT = Path(__file__).parents[3]
LOCUST = (sys.executable, "-m", "locust", "-f", str(ROOT / "loadtests" / "locustfile.py"))
WAIT_S = 60


@pytest.mark.parametrize("arrivals", ["closed", "poisson"])
def test_requests_that_are_not_answered_by_the_end_have_failed(tmp_path, arrivals):
    slo = tmp_path / "slo.yaml"
    slo.write_text("max_error_share: 0")

    def begin_and_hang(send):
        send(event())
        threading.Event().wait(WAIT_S)
    with serve_events(begin_and_hang) as server:
        ran = subprocess.run(
            [*LOCUST, "--headless", "--only-summary", "--users", "1", "--run-time", "1s",
             "--stop-timeout", "1", "--http-url", server.url.removeprefix("http://"),
             "--arrivals", arrivals, "--rate", "5", "--slo", str(slo), "TritonSseUser"],
            cwd=ROOT, capture_output=True, text=True, check=False, timeout=WAIT_S)
    assert "no whole answer when the --stop-timeout of 1 s was over" in ran.stdout + ran.stderr
    assert ran.returncode == 1
