"""What is done about a server that is lost."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from tritonlm import backoff
from tritonlm.errors import ServerCrashed, ServerLost, StartFailure
from tritonlm.server import launcher, supervisor


class NotReady(Exception):
    """Of a server that comes up, and does not get as far as it should."""


class Servers:
    """Each start comes to what the script says next."""

    def __init__(self, script):
        self._script = iter(script)
        self.num_starts = self.num_ready = 0
        self.slept_s = []
        self.said = []

    @contextmanager
    def launch(self, plan, report):
        self.num_starts += 1
        self._error = next(self._script)
        if isinstance(self._error, StartFailure) and not isinstance(self._error, ServerLost):
            raise self._error
        yield self

    def watch(self):
        raise self._error

    def announce(self, server):
        if isinstance(self._error, NotReady):
            raise StartFailure("a model does not load")
        self.num_ready += 1


@pytest.fixture
def run(monkeypatch):
    def run(*script):
        servers = Servers(script)
        monkeypatch.setattr(launcher, "launch", servers.launch)
        monkeypatch.setattr(supervisor.time, "sleep", servers.slept_s.append)
        with pytest.raises((KeyboardInterrupt, StartFailure)) as caught:
            supervisor.run(None, servers.said.append, servers.announce)
        return servers, caught.value
    return run


LOST, FAILED, CTRL_C = ServerLost("it is gone"), StartFailure("no port"), KeyboardInterrupt()
CRASHED = ServerCrashed("SIGABRT")


def test_a_lost_server_is_started_again_with_back_off(run):
    servers, end = run(*[LOST] * 7, CTRL_C)
    assert end is CTRL_C
    assert servers.num_ready == 8
    assert servers.slept_s == [1, 2, 4, 8, 16, 30, 30]
    assert servers.said[0] == "tritonlm: it is gone; starting it again in 1 s"
    assert servers.said[-1] == "tritonlm: stopping"


def test_a_server_that_never_started_is_not_tried_again(run):
    servers, end = run(FAILED)
    assert end is FAILED
    assert servers.num_starts == 1


def test_a_server_that_crashed_before_it_was_ready_is_tried_once_more(run):
    servers, end = run(CRASHED, CTRL_C)
    assert end is CTRL_C
    assert servers.said[0] == "tritonlm: SIGABRT; starting it again in 1 s"
    for second in (CRASHED, FAILED):
        servers, end = run(CRASHED, second)
        assert end is second
        assert servers.num_starts == 2


def test_a_server_that_was_never_ready_is_not_tried_again(run):
    servers, end = run(NotReady())
    assert str(end) == "a model does not load"
    assert servers.num_starts == 1


def test_a_server_that_is_not_ready_again_is_tried_a_few_times(run):
    servers, _ = run(LOST, *[NotReady()] * supervisor.MAX_FAILED_STARTS)
    assert servers.num_starts == 1 + supervisor.MAX_FAILED_STARTS


def test_a_server_that_started_once_may_fail_to_a_few_times(run):
    few = supervisor.MAX_FAILED_STARTS - 1
    servers, end = run(LOST, *[FAILED] * few, LOST, *[FAILED] * (few + 1))
    assert end is FAILED
    assert servers.num_starts == 2 * few + 3
    assert servers.num_ready == 2


def test_a_server_that_was_stable_is_started_again_at_once(run, monkeypatch):
    monkeypatch.setattr(backoff, "STABLE_S", -1.0)
    servers, _ = run(LOST, LOST, LOST, CTRL_C)
    assert servers.slept_s == [1, 1, 1]
