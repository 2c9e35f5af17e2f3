"""A follower's process: `python -m tritonlm.engine.tensor_parallel.follower PORT RANK PLACE`.

It loads its part of the leader's model, and takes each step that the leader takes. PLACE is its
number among the processes of all engines. It ends with the leader, which has started it.
"""

from __future__ import annotations

import logging
import signal
import sys
import time

import zmq
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from tritonlm.engine.build import build_device_side
from tritonlm.engine.device import choose_device, take_share
from tritonlm.engine.step_runner import StepRunner
from tritonlm.engine.tensor_parallel import leader, wire
from tritonlm.engine.tensor_parallel.group import join
from tritonlm.errors import ServingError
from tritonlm.logs import configure
from tritonlm.parent import end_with_parent

LOG = logging.getLogger("tritonlm.engine.follower")
LEADERS_TURN_S = 10.0
"""How long the leader has to say why it cannot load, before a follower's end ends it too."""


def main() -> None:
    """Follow until the leader is gone."""
    port, rank, place = map(int, sys.argv[1:])
    end_with_parent(signal.SIGKILL)
    for ignored in (signal.SIGINT, signal.SIGTERM):  # it is for the leader to end, and this with it
        signal.signal(ignored, signal.SIG_IGN)
    store = TCPStore(leader.HOST, port, is_master=False)
    terms = leader.read_terms(store)
    configure(f"follower {rank}", terms.config.log_format)
    try:
        take_share(terms.config, place)
        socket = _connect(terms.address)
        join(store, rank, terms.config.tensor_parallel, choose_device(terms.config.device),
             terms.config.engine_start_timeout_s)
        _follow(build_device_side(terms.config, lambda line: None).runner, socket)
    except ServingError as error:
        LOG.error("cannot load: %s", error.message)
        time.sleep(LEADERS_TURN_S)
        sys.exit(1)


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
