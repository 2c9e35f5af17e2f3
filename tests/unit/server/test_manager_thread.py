"""The thread of the model manager: what keeps it from its start is told, and it ends at once."""

from __future__ import annotations

import signal
import socket
import threading
from types import SimpleNamespace

import pytest

from tritonlm.config import DEMO_CHECKPOINT, ModelConfig
from tritonlm.errors import StartFailure
from tritonlm.manager.limits import Limits
from tritonlm.server import manager_thread
from tritonlm.server.manager_thread import ManagerStart
from tritonlm.server.model_store import ModelStore


@pytest.fixture
def listener():
    with socket.create_server(("localhost", 0)) as listener:
        yield listener


def running(tmp_path, listener, start):
    """The thread, of a server that is `listener`."""
    store = ModelStore(tmp_path / "store")
    store.add("poet", "generate", ModelConfig(model=str(DEMO_CHECKPOINT), kv_cache_gib=0.1))
    server = SimpleNamespace(http_url=f"http://localhost:{listener.getsockname()[1]}",
                             run_dir=tmp_path, lose=lambda name: None)
    return manager_thread.running(server, "localhost", store, Limits(memory_budget_gib=2), start)


@pytest.mark.parametrize(("preload", "reason"), [("", "address already in use"),
                                                 ("none", "the model 'none' does not exist")])
def test_what_keeps_it_from_its_start_is_told(tmp_path, listener, preload, reason):
    start = ManagerStart(manager_port=listener.getsockname()[1], preload=preload)
    with pytest.raises(StartFailure, match=reason), running(tmp_path, listener, start):
        pass


def test_ctrl_c_does_not_wait_for_a_load(tmp_path, listener):
    def interrupt():
        connection, _ = listener.accept()  # of a load, which is never answered
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        is_over.wait()
        connection.close()

    is_over = threading.Event()
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        running(tmp_path, listener, ManagerStart(manager_port=0, preload="poet")).__enter__()
    is_over.set()
    thread.join()
