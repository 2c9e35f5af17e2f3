"""The model manager of a running server, in a thread of the launcher."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from tritonlm.errors import InvalidArgument, StartFailure
from tritonlm.manager.control import ModelControl
from tritonlm.manager.limits import Limits
from tritonlm.manager.manager import Manager
from tritonlm.manager.service import listening
from tritonlm.server import model_processes, ports
from tritonlm.server.device import choose_device, device_bytes
from tritonlm.server.memory_need import GIB
from tritonlm.server.model_store import ModelStore
from tritonlm.server.settings import MAX_PORT, ServerSettings
from tritonlm.server.store_catalogue import StoreCatalogue
from tritonlm.server.tritonserver import TritonServer

DEVICE_SHARE = 0.85
"""Of the device's memory that models get if no budget is set."""


@dataclass(frozen=True)
class ManagerStart:
    """How the manager of a server is started."""

    manager_port: int = 8003
    """Port of the model manager, for gateways and `tritonlm models`; 0 is any free one."""
    pin: str = ""
    """Models that are loaded at the start and never unloaded, separated by commas."""
    preload: str = ""
    """Models that are loaded at the start, separated by commas."""

    def __post_init__(self) -> None:
        """Raise `InvalidArgument` for a port that does not exist."""
        if not 0 <= self.manager_port <= MAX_PORT:
            raise InvalidArgument("manager_port", self.manager_port, f"allowed: 0 to {MAX_PORT}")

    def with_port(self, server: ServerSettings) -> ManagerStart:
        """With a port that is free and not `server`'s; raises `StartFailure` if there is none."""
        taken = {"--http-port": server.http_port, "--grpc-port": server.grpc_port,
                 "--metrics-port": server.metrics_port}
        chosen = ports.choose(server.host, taken | {"--manager-port": self.manager_port})
        return replace(self, manager_port=chosen["--manager-port"])


@contextmanager
def running(
    server: TritonServer, host: str, store: ModelStore, limits: Limits, start: ManagerStart,
) -> Iterator[None]:
    """A manager of `server` that listens at its port, with what is to be loaded at the start.

    Raises `StartFailure` if that cannot be loaded.
    """
    loop = asyncio.new_event_loop()
    started: Future[None] = Future()
    work = loop.create_task(_run(server, host, store, limits, start, started))
    thread = threading.Thread(target=loop.run_until_complete, name="model manager", daemon=True,
                              args=(asyncio.wait({work}),))
    thread.start()
    try:
        failure = started.exception()  # waits
        if failure is not None:
            raise StartFailure(f"the model manager does not start: {failure}")
        yield
    finally:
        loop.call_soon_threadsafe(work.cancel)
        thread.join()
        loop.close()


async def _run(
    server: TritonServer, host: str, store: ModelStore, limits: Limits, start: ManagerStart,
    started: Future[None],
) -> None:
    """Manage until cancelled; `started` gets what keeps it from the start."""
    control = ModelControl(server.http_url, partial(model_processes.find, server.run_dir))
    manager = Manager(_of_device(limits), control, StoreCatalogue(store), server.lose)
    try:
        await manager.start(_names(start.pin), _names(start.preload))
        async with listening(manager, host, start.manager_port):
            started.set_result(None)
            await asyncio.Event().wait()
    except Exception as failure:
        started.set_exception(failure)
    finally:
        await manager.close()


def _of_device(limits: Limits) -> Limits:
    """The limits, with the budget that the device has if none is set."""
    if limits.memory_budget_gib is not None:
        return limits
    return replace(limits, memory_budget_gib=DEVICE_SHARE * device_bytes(choose_device("auto"))
                   / GIB)


def _names(texts: str) -> list[str]:
    return [text.strip() for text in texts.split(",") if text.strip()]
