"""What a leader leaves for its followers, where they meet it: a store at an address."""

from __future__ import annotations

import dataclasses
import json
import socket
import time
from dataclasses import dataclass
from datetime import timedelta

from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]

from tritonlm.config import ModelConfig
from tritonlm.errors import InvalidArgument

HERE = "127.0.0.1"
RETRY_INTERVAL_S = 0.5
TERMS = "terms"
LOST = "lost"
"""Set by another machine when a follower there has ended: which, and how."""


@dataclass(frozen=True)
class Terms:
    """What followers need to know."""

    config: ModelConfig
    batches: str
    """ZeroMQ address that the batches come from."""

    def leave(self, store: Store) -> None:
        """Write them for followers to read."""
        store.set(TERMS, json.dumps(dataclasses.asdict(self)))

    @classmethod
    def read(cls, store: Store) -> Terms:
        """Wait for the leader to leave them."""
        terms = json.loads(store.get(TERMS))
        return cls(ModelConfig(**terms["config"]), terms["batches"])


def open_store(config: ModelConfig) -> tuple[TCPStore, str]:
    """The leader's store, at `config.tensor_parallel_address` or a free port; and its address.

    Raises RuntimeError if the port is taken.
    """
    host, port = split_address(config.tensor_parallel_address or f"{HERE}:0")
    store = TCPStore(host, port, is_master=True, wait_for_workers=False)
    return store, f"{host}:{store.port}"


def find_store(address: str, timeout_s: float) -> TCPStore:
    """The leader's store, for a follower; raises OSError or RuntimeError if none comes in time."""
    host, port = split_address(address)
    deadline_s = time.monotonic() + timeout_s
    while True:  # torch would show a stack with every attempt
        try:
            socket.create_connection((host, port), timeout_s).close()
            break
        except OSError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(RETRY_INTERVAL_S)
    return TCPStore(host, port, is_master=False, timeout=timedelta(seconds=timeout_s))


def split_address(address: str) -> tuple[str, int]:
    """Host and port; raises `InvalidArgument`."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise InvalidArgument("address", address, "allowed: host:port")
    return host, int(port)
