"""A follower, `python -m tritonlm.engine.tensor_parallel.follower ADDRESS RANK PLACE PID`.

It loads its part of the model of the leader at ADDRESS, and takes each step that the leader takes.
PLACE is its number among the processes on its machine. It ends with the leader, and with the
process PID, which has started it.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time

import zmq

from tritonlm.engine.build import build_device_side
from tritonlm.engine.device import choose_device, take_share
from tritonlm.engine.step_runner import StepRunner
from tritonlm.engine.tensor_parallel import wire
from tritonlm.engine.tensor_parallel.group import join
from tritonlm.engine.tensor_parallel.terms import TERMS, Terms, find_store
from tritonlm.errors import ServingError
from tritonlm.logs import configure
from tritonlm.parent import end_with_parent
from tritonlm.process_memory import settle

LOG = logging.getLogger("tritonlm.engine.follower")
FIND_TIMEOUT_S = 30.0
LEADERS_TURN_S = 10.0
"""How long the leader has to say why it cannot load, before a follower's end ends it too."""
WATCH_INTERVAL_S = 1.0


def main() -> None:
    """Follow until the leader is gone."""
    address, (rank, place, parent) = sys.argv[1], map(int, sys.argv[2:])
    end_with_parent(signal.SIGKILL, parent)  # which is number 1 in a container
    for ignored in (signal.SIGINT, signal.SIGTERM):  # it is for the leader to end, and this with it
        signal.signal(ignored, signal.SIG_IGN)
    store = find_store(address, FIND_TIMEOUT_S)
    threading.Thread(target=_end_with_leader, args=(address,), daemon=True).start()
    terms = Terms.read(store)
    config = terms.config
    configure(f"follower {rank}", config.log_format)
    try:
        take_share(config, place)
        socket = _connect(terms.batches)
        join(store, rank, config.tensor_parallel, choose_device(config.device),
             config.engine_start_timeout_s)
        runner = build_device_side(config, lambda line: None).runner
        settle()
        _follow(runner, socket)
    except ServingError as error:
        LOG.error("cannot load: %s", error.message)
        time.sleep(LEADERS_TURN_S)
        sys.exit(1)


def _end_with_leader(address: str) -> None:
    """End this process once the leader does not answer: a step that it is in may last for ever."""
    try:
        store = find_store(address, FIND_TIMEOUT_S)
        while True:
            store.check([TERMS])
            time.sleep(WATCH_INTERVAL_S)
    except (OSError, RuntimeError):
        LOG.info("the leader has ended")
        os._exit(1)


def _connect(address: str) -> zmq.Socket[bytes]:
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.subscribe(b"")
    socket.connect(address)
    return socket


def _follow(runner: StepRunner, socket: zmq.Socket[bytes]) -> None:
    """Launch what the leader launches, and never be more than a step ahead of the device."""
    step = runner.launch(wire.decode(socket.recv()))
    while True:
        following = runner.launch(wire.decode(socket.recv()))
        step.tokens()
        step = following


if __name__ == "__main__":
    main()
