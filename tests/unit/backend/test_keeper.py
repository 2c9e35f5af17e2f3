"""A front end that keeps an engine: how soon one that has ended is started again."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
import time

import pytest
from engine_peer import TIMEOUT_S

from tritonlm import backoff
from tritonlm.backend.keeper import EngineKeeper
from tritonlm.config import ModelConfig
from tritonlm.engine import worker_command
from tritonlm.engine.endpoint import Endpoint

ENDS = "import sys; sys.exit(3)"
ENDS_WHEN_TOLD = """
import os, sys, time
while not os.path.exists({told!r}): time.sleep(0.005)
os.unlink({told!r})
sys.exit(3)
"""
GOES_ON = "import time; time.sleep(1000)"


def wait(is_so):
    deadline_s = time.monotonic() + TIMEOUT_S
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.001)


@pytest.fixture
def keep(tmp_path, monkeypatch):
    """Keep an engine whose code is given."""
    monkeypatch.setattr(backoff, "MAX_PAUSE_S", 0.4)
    started = []

    def keep(code):
        monkeypatch.setattr(worker_command, "command", lambda *_: [sys.executable, "-c", code])
        started.append(EngineKeeper(ModelConfig(), Endpoint(tmp_path), 0))
        started[-1].start()
        return started[-1]

    yield keep
    for keeper in started:
        keeper.stop()


def pauses(caplog):
    return re.findall(r"ended with exit code 3; starting another in ([\d.]+) s", caplog.text)


def test_an_engine_that_ends_again_and_again_is_started_less_and_less_often(keep, caplog):
    keep(ENDS)
    wait(lambda: len(pauses(caplog)) >= 4)
    assert pauses(caplog)[:4] == ["0.1", "0.2", "0.4", "0.4"]


@pytest.mark.parametrize(("stable_s", "expected"), [
    (60.0, ["0.1", "0.2", "0.4"]), (0.0, ["0.1", "0.1", "0.1"])])
def test_one_that_is_ready_before_it_ends_is_started_at_once_if_it_was_for_long(
        keep, tmp_path, caplog, monkeypatch, stable_s, expected):
    monkeypatch.setattr(backoff, "STABLE_S", stable_s)
    told = tmp_path / "told"
    keeper = keep(ENDS_WHEN_TOLD.format(told=str(told)))
    for number in range(1, 4):
        wait(lambda number=number: keeper.num_starts == number)
        keeper.note_ready()
        told.touch()
        wait(lambda number=number: len(pauses(caplog)) >= number)
    assert pauses(caplog) == expected


def test_why_an_engine_did_not_come_up_is_told(keep, tmp_path, caplog):
    keep(ENDS)
    wait(lambda: pauses(caplog))
    assert Endpoint(tmp_path).engine(0).read_failure(0) == "engine 0 ended with exit code 3"


def test_an_engine_that_the_system_does_not_start_is_tried_again(keep, monkeypatch, caplog):
    popen, tries = subprocess.Popen, []

    def popen_at_last(*args, **kwargs):
        tries.append(args)
        if len(tries) < 3:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        return popen(*args, **kwargs)

    monkeypatch.setattr(subprocess, "Popen", popen_at_last)
    keep(ENDS)
    wait(lambda: pauses(caplog))
    assert caplog.text.count("engine 0 cannot be started: [Errno 11]") == 2


def test_of_two_front_ends_one_has_an_engine_and_the_other_gets_it_next(keep):
    first, second = keep(GOES_ON), keep(GOES_ON)
    wait(lambda: first.num_starts + second.num_starts == 1)
    has_it, waits = (first, second) if first.num_starts else (second, first)
    has_it.stop()
    wait(lambda: waits.num_starts == 1)
