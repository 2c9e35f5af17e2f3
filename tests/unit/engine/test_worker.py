"""The engine's process: what it says when there is no room, no progress or no device."""

from __future__ import annotations

import time

import pytest
import torch
import zmq
from arithmetic import make_engine
from drive import submit

from tritonlm.config import ModelConfig
from tritonlm.engine import device, heartbeat, messages, worker
from tritonlm.engine.build import BuiltEngine
from tritonlm.engine.endpoint import Endpoint
from tritonlm.engine.worker import Worker

LIMITS = messages.Ready(64, 100)


class Ended(Exception):
    pass


@pytest.fixture
def endpoint(tmp_path):
    return Endpoint(tmp_path)


@pytest.fixture
def engine():
    return make_engine(4, 48, 4, lambda: 0.0, 0, False, max_num_batched_tokens=16,
                       max_waiting_requests=2)


@pytest.fixture
def serving(engine, endpoint):
    serving = Worker(BuiltEngine(engine, LIMITS), endpoint)
    yield serving
    serving._socket.close(linger=0)


@pytest.fixture
def front_end(endpoint, serving):
    front_end = zmq.Context.instance().socket(zmq.DEALER)
    front_end.connect(endpoint.address)
    yield front_end
    front_end.close(linger=0)


def tell(serving, front_end, *said):
    front_end.send(messages.encode(list(said)))
    assert serving._socket.poll(5000)
    serving._receive()


def hear(front_end, kind):
    while front_end.poll(1000):
        message = messages.decode_to_front_end(front_end.recv())
        if isinstance(message, kind):
            return message
    raise AssertionError(f"no {kind}")


def test_a_front_end_that_went_with_much_to_say_leaves_the_engine_to_others(
    serving, front_end, endpoint
):
    gone = zmq.Context.instance().socket(zmq.DEALER)
    gone.connect(endpoint.address)
    refused_at_once = messages.encode([submit(key, [], 4) for key in range(3)])
    for _ in range(3):
        gone.send(refused_at_once)
    assert serving._socket.poll(5000)
    gone.close(linger=1000)
    time.sleep(0.3)  # the engine's socket has seen it go
    for _ in range(3):
        serving._receive()
    tell(serving, front_end, messages.Hello())
    assert hear(front_end, messages.Ready) == LIMITS


def test_a_request_without_room_is_refused_with_a_hint(serving, front_end):
    tell(serving, front_end, *(submit(key, [5, 6, 7]) for key in range(7)))
    refused = hear(front_end, messages.Refused)
    assert refused.key == 6
    assert "retry in 1 s" in refused.message


def test_each_front_end_has_a_number_of_its_own(serving, front_end, endpoint):
    tell(serving, front_end, messages.Hello())
    other = zmq.Context.instance().socket(zmq.DEALER)
    for _ in range(2):
        other.connect(endpoint.address)
        tell(serving, other, messages.Hello())
        other.close(linger=0)
        other = zmq.Context.instance().socket(zmq.DEALER)
    other.close(linger=0)
    assert sorted(serving._identities) == [0, 1, 2]


def test_an_engine_without_work_shows_that_it_lives(serving, endpoint):
    serving._step()
    serving._step()
    assert heartbeat.read(endpoint.heartbeat) == 2


def test_an_engine_that_has_work_and_does_none_shows_no_life(
    serving, front_end, engine, endpoint, monkeypatch
):
    tell(serving, front_end, submit(1, [5, 6, 7]))
    with monkeypatch.context() as stuck:
        stuck.setattr(engine.scheduler, "schedule", lambda now_s: None)
        serving._step()
    assert heartbeat.read(endpoint.heartbeat) == 0
    serving._step()
    assert heartbeat.read(endpoint.heartbeat) == 1


@pytest.fixture
def failing_step(serving, front_end, engine, monkeypatch):
    """A step that fails with a RuntimeError."""
    def fail(batch):
        raise RuntimeError("a failure")

    monkeypatch.setattr(engine.runner, "launch", fail)
    tell(serving, front_end, submit(1, [5, 6, 7]))
    return serving._step


def test_a_step_that_fails_fails_its_requests_alone(failing_step, front_end, serving, caplog):
    failing_step()
    assert caplog.messages == ["a step failed: a failure"]
    assert caplog.records[0].fields == {"request_ids": ["request 1"]}
    assert hear(front_end, messages.Failed).request_keys() == [1]
    tell(serving, front_end, submit(2, [5, 6, 7]))
    serving._step()
    assert hear(front_end, messages.Failed).request_keys() == [2]


def test_a_process_whose_device_is_lost_ends_at_once(failing_step, front_end, monkeypatch, caplog):
    def end(code):
        raise Ended(code)

    def broken():
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore lines")

    monkeypatch.setattr(worker.os, "_exit", end)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", broken)
    with pytest.raises(Ended, match=str(worker.DEVICE_LOST)):
        failing_step()
    assert caplog.messages[-1] == (
        "the device is lost: CUDA error: an illegal memory access was encountered")
    with pytest.raises(AssertionError, match="no "):
        hear(front_end, messages.Failed)


def test_engines_share_the_cores_of_a_cpu(monkeypatch):
    taken = []
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(device, "num_usable_cores", lambda: 8)
    monkeypatch.delenv(device.THREADS_VARIABLE, raising=False)
    for num_engines in (1, 3, 9):
        device.take_share(ModelConfig(device="cpu", num_engines=num_engines), 0)
    assert taken == [4, 2, 1]
    monkeypatch.setenv(device.THREADS_VARIABLE, "3")
    device.take_share(ModelConfig(device="cpu"), 0)
    assert taken == [4, 2, 1], "what the environment says has been changed"


def test_each_engine_has_a_gpu_of_its_own(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    for index in range(2):
        device.take_share(ModelConfig(num_engines=2), index)
    assert taken == [0, 1]
    with pytest.raises(device.InvalidArgument, match=r"num_engines: 3 .* up to 2"):
        device.take_share(ModelConfig(num_engines=3), 2)


def test_what_fails_a_step_is_no_lost_device_while_the_device_works(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    assert device.lost_device() is None


@pytest.mark.parametrize(("error", "is_memory"), [
    (MemoryError("std::bad_alloc"), True),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
    (OSError(12, "Cannot allocate memory"), True),
    (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
])
def test_an_error_of_a_load_that_lacks_memory_is_known(error, is_memory):
    assert device.is_out_of_memory(error) is is_memory


def test_the_hosts_own_error_is_one_that_lacks_memory():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert device.is_out_of_memory(caught.value)


def test_a_load_that_lacks_memory_leaves_that_as_its_reason(tmp_path, monkeypatch):
    def build(config, report):
        torch.empty(1 << 60)

    monkeypatch.setattr(worker, "end_with_parent", lambda sent: None)
    monkeypatch.setattr(worker, "configure", lambda name, log_format: None)
    monkeypatch.setattr(worker.signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(worker.sys, "argv", ["worker", str(tmp_path), '{"device": "cpu"}', "0"])
    with pytest.raises(RuntimeError):
        worker.main(build)
    assert worker.NO_MEMORY in Endpoint(tmp_path).read_failure(0)
