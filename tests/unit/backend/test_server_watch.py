"""A front end that sees that its model is to go."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tritonlm.backend import server_watch
from tritonlm.backend.server_watch import ServerWatch

INTERVAL_S = 0.01
LIMIT_S = 60
READY, NOT_READY, BROKEN, NO_STATUS, HANGS_UP = 200, 400, 500, 777, None


class Triton(ThreadingHTTPServer):
    """A server that answers every question with `status`."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.status = NOT_READY
        self.refusals_to_come = 0
        self.paths = []
        self.num_answers = threading.Semaphore(0)
        threading.Thread(target=self.serve_forever, args=(0.01,)).start()

    def wait_for_answers(self, number=4):
        for _ in range(number):
            assert self.num_answers.acquire(timeout=LIMIT_S)

    def close(self):
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.paths.append(self.path)
        self.server.refusals_to_come -= 1
        status = self.server.status if self.server.refusals_to_come < 0 else NOT_READY
        if status is not None:
            self.send_response(status)
            self.end_headers()
        self.server.num_answers.release()

    def log_message(self, *_):
        pass


@pytest.fixture
def triton():
    triton = Triton()
    yield triton
    triton.close()


@pytest.fixture
def ended(triton, monkeypatch):
    """Set when the model is said to be served no longer."""
    monkeypatch.setattr(server_watch, "INTERVAL_S", INTERVAL_S)
    ended, triton.ends = threading.Event(), []

    def on_end(is_unload):
        triton.ends.append(is_unload)
        ended.set()

    watch = ServerWatch(f"http://127.0.0.1:{triton.server_port}", "generate", "3", on_end)
    triton.watch = watch
    yield ended
    watch.stop()


def test_nobody_is_asked_before_the_first_request(triton, ended):
    triton.watch.stop()
    assert triton.paths == []


def test_a_version_of_a_model_is_asked_about(triton, ended):
    triton.status = READY
    for _ in range(3):
        triton.watch.ensure_started()
    triton.wait_for_answers()
    assert not ended.is_set()
    assert set(triton.paths) == {"/v2/models/generate/versions/3/ready"}


def test_a_moment_may_be_a_reload(triton, ended):
    triton.status = READY
    triton.refusals_to_come = 2
    triton.watch.ensure_started()
    triton.wait_for_answers()
    assert not ended.is_set()


def test_a_model_that_is_unloaded_ends(triton, ended):
    triton.status = READY
    triton.watch.ensure_started()
    triton.wait_for_answers()
    assert not ended.is_set()
    triton.status = NOT_READY
    assert ended.wait(LIMIT_S)
    assert triton.ends == [True]


def test_a_server_that_stops_after_an_unload_is_told_too(triton, ended):
    triton.watch.ensure_started()
    assert ended.wait(LIMIT_S)
    ended.clear()
    triton.close()
    assert ended.wait(LIMIT_S)
    assert triton.ends == [True, False]


def test_a_server_that_closes_its_port_ends(triton, ended):
    triton.status = READY
    triton.watch.ensure_started()
    triton.wait_for_answers()
    triton.close()
    assert ended.wait(LIMIT_S)


def test_a_server_that_closes_connections_unanswered_ends(triton, ended):
    triton.status = READY
    triton.watch.ensure_started()
    triton.wait_for_answers()
    triton.status = HANGS_UP
    assert ended.wait(LIMIT_S)
    assert triton.ends == [False]


@pytest.mark.parametrize("trouble", [BROKEN, NO_STATUS])
def test_a_server_in_trouble_does_not_end(triton, ended, trouble):
    triton.status = READY
    triton.watch.ensure_started()
    triton.wait_for_answers()
    triton.status = trouble
    triton.wait_for_answers()
    assert not ended.is_set()
