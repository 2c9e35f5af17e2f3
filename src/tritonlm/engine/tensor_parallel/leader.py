"""The leader's side: it starts the followers, tells them each batch, and ends if one is lost."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass

import zmq
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]

from tritonlm.config import ModelConfig
from tritonlm.engine.batch import Batch
from tritonlm.engine.build import BuiltEngine, build_engine
from tritonlm.engine.device import choose_device
from tritonlm.engine.step_runner import LaunchedStep, StepRunner
from tritonlm.engine.tensor_parallel import wire
from tritonlm.engine.tensor_parallel.group import join

LOG = logging.getLogger(__name__)
MODULE = "tritonlm.engine.tensor_parallel.follower"
HOST = "127.0.0.1"
TERMS = "terms"
OUT_OF_STEP = 71
"""Exit code of a leader that has lost a follower, or failed in a step that others have taken."""


@dataclass(frozen=True)
class Terms:
    """What followers need to know."""

    config: ModelConfig
    address: str
    """Where the batches come from."""


def read_terms(store: Store) -> Terms:
    """What the leader has left for its followers."""
    terms = json.loads(store.get(TERMS))
    return Terms(ModelConfig(**terms["config"]), terms["address"])


def build_with_followers(
    config: ModelConfig, report: Callable[[str], None], place: int
) -> BuiltEngine:
    """An engine that shares its model with followers, which are started on the places behind.

    `place` is this process's among those of all engines. Raises `InvalidArgument`.
    """
    leader = Leader(config, place)
    built = build_engine(config, report)
    built.engine.runner = leader.lead(built.engine.runner)
    return built


class Leader:
    """This process with `config.tensor_parallel` - 1 followers, which it has started."""

    def __init__(self, config: ModelConfig, place: int) -> None:
        """Start them, and join them; `place` is this process's among those of all engines.

        They load when this process does. Raises RuntimeError if one does not come.
        """
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.XPUB)
        self._socket.setsockopt(zmq.SNDHWM, 0)  # a batch that is dropped would be a step missed
        port: int = self._socket.bind_to_random_port(f"tcp://{HOST}")
        size = config.tensor_parallel
        store = self._store = TCPStore(HOST, 0, is_master=True, wait_for_workers=False)
        store.set(TERMS, json.dumps({
            "config": dataclasses.asdict(config), "address": f"tcp://{HOST}:{port}"}))
        for rank in range(1, size):
            command = [sys.executable, "-m", MODULE, str(store.port), str(rank),
                       str(place + rank)]
            self._watch(rank, subprocess.Popen(command, stdin=subprocess.DEVNULL))
        join(store, 0, size, choose_device(config.device), config.engine_start_timeout_s)
        for _ in range(1, size):
            self._socket.recv()  # one has subscribed

    def lead(self, runner: StepRunner) -> StepRunner:
        """`runner` with followers that take the same steps."""
        return _LeadingRunner(runner, self._socket)

    def _watch(self, rank: int, follower: subprocess.Popen[bytes]) -> None:
        def wait() -> None:
            code = follower.wait()
            _end(f"follower {rank} has ended with exit code {code}")

        threading.Thread(target=wait, name=f"follower {rank}", daemon=True).start()


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
            raise


def _end(reason: str) -> None:
    """End this process: what others wait for in a step will not come, and an engine is restarted.

    At once, for a thread may wait inside of a step for ever.
    """
    LOG.error("%s: this engine ends", reason)
    os._exit(OUT_OF_STEP)
