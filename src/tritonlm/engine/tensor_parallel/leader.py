"""The leader's side: it starts the followers, tells them each batch, and ends if one is lost."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import zmq

from tritonlm.config import ModelConfig
from tritonlm.engine.batch import Batch
from tritonlm.engine.build import BuiltEngine, build_engine
from tritonlm.engine.device import choose_device
from tritonlm.engine.step_runner import LaunchedStep, StepRunner
from tritonlm.engine.tensor_parallel import wire
from tritonlm.engine.tensor_parallel.followers import start_followers, wait_for_any
from tritonlm.engine.tensor_parallel.group import join
from tritonlm.engine.tensor_parallel.terms import HERE, LOST, Terms, open_store

LOG = logging.getLogger(__name__)
OUT_OF_STEP = 71
"""Exit code of a leader that has lost a follower, or failed in a step that others have taken."""
WATCH_INTERVAL_S = 1.0


def build_with_followers(
    config: ModelConfig, report: Callable[[str], None], place: int
) -> BuiltEngine:
    """An engine that shares its model with followers, which are started on the places behind.

    `place` is this process's among those on this machine. Raises `InvalidArgument`.
    """
    leader = Leader(config, place)
    built = build_engine(config, report)
    built.engine.runner = leader.lead(built.engine.runner)
    return built


class Leader:
    """This process with `config.tensor_parallel` - 1 followers."""

    def __init__(self, config: ModelConfig, place: int) -> None:
        """Start those on this machine, at the places behind `place`, and wait for all to join.

        They load when this process does. Raises RuntimeError if one does not come.
        """
        self._store, address = open_store(config)
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.XPUB)
        self._socket.setsockopt(zmq.SNDHWM, 0)  # a batch that is dropped would be a step missed
        self._socket.setsockopt(zmq.XPUB_VERBOSE, 1)  # each follower's subscription is heard of
        host = address.rpartition(":")[0]
        port: int = self._socket.bind_to_random_port(
            f"tcp://{HERE if config.tensor_parallel_nodes == 1 else '*'}")
        Terms(config, f"tcp://{host}:{port}").leave(self._store)
        size = config.tensor_parallel
        ranks = range(1, size // config.tensor_parallel_nodes)
        followers = start_followers(address, ranks, place + 1)
        if followers:
            _in_background(lambda: _end(wait_for_any(followers)))
        if config.tensor_parallel_nodes > 1:
            _in_background(self._watch_others)
        join(self._store, 0, size, choose_device(config.device), config.engine_start_timeout_s)
        for _ in range(1, size):
            self._socket.recv()  # one has subscribed

    def lead(self, runner: StepRunner) -> StepRunner:
        """`runner` with followers that take the same steps."""
        return _LeadingRunner(runner, self._socket)

    def _watch_others(self) -> None:
        while not self._store.check([LOST]):
            time.sleep(WATCH_INTERVAL_S)
        _end(self._store.get(LOST).decode())


@dataclass(frozen=True)
class _LeadingRunner:
    runner: StepRunner
    socket: zmq.Socket[bytes]

    def launch(self, batch: Batch) -> LaunchedStep:
        self.socket.send(wire.encode(batch))
        try:
            return self.runner.launch(batch)
        except RuntimeError as error:
            _end(f"a step failed: {error}")


def _in_background(watch: Callable[[], None]) -> None:
    threading.Thread(target=watch, name="watch of followers", daemon=True).start()


def _end(reason: str) -> NoReturn:
    """End this process: what others wait for in a step will not come, and an engine is restarted.

    At once, for a thread may wait inside of a step for ever.
    """
    LOG.error("%s: this engine ends", reason)
    os._exit(OUT_OF_STEP)
