"""The `models` commands of a server with a model manager: what is loaded, and what should be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, TypeAlias

import msgspec
import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from tritonlm.errors import InvalidArgument, Unavailable
from tritonlm.manager.client import ManagerClient
from tritonlm.manager.messages import ManagerStatus, ModelStatus, Verb

REFRESH_INTERVAL_S = 0.5
GIB = 2**30
MINUTE_S, HOUR_S = 60, 3600
COLUMNS = ("name", "task", "vers.", "state", "in use", "GiB", "idle", "loads", "asked")
"""Memory is what it has, and what it needs; loads are how many, and how long the last one took."""
WRAPPED = {"name": 8, "state": 8, "in use": 7, "loads": 6}
"""Where a terminal has 80 columns, and to how many."""
DEFAULT_MANAGER = "localhost:8003"
Name: TypeAlias = Annotated[str, typer.Argument(metavar="NAME", help="The model.")]
Manager: TypeAlias = Annotated[str, typer.Option(
    "--manager", envvar="TRITONLM_MANAGER", help="Host and port of the model manager.")]


def load(name: Name, manager: Manager = DEFAULT_MANAGER) -> None:
    """Load a model, and return when it is ready."""
    _do(manager, "load", name)


def unload(name: Name, manager: Manager = DEFAULT_MANAGER) -> None:
    """Unload a model that nobody uses, and return when nothing of it is left."""
    _do(manager, "unload", name)


def pin(name: Name, manager: Manager = DEFAULT_MANAGER) -> None:
    """Load a model, and never unload it."""
    _do(manager, "pin", name)


def unpin(name: Name, manager: Manager = DEFAULT_MANAGER) -> None:
    """Let a pinned model be unloaded."""
    _do(manager, "unpin", name)


def reload(name: Name, manager: Manager = DEFAULT_MANAGER) -> None:
    """Serve the versions of a loaded model that are in the repository now; none that stays stops.

    New requests go to the newest version once it is ready; those that run end where they began.
    """
    _do(manager, "reload", name)


def show(manager: str, as_json: bool) -> None:
    """The state of all models; on a terminal, live until Ctrl-C."""
    async def run() -> None:
        async with _client(manager) as client:
            status = await client.status()
            if as_json:
                typer.echo(msgspec.json.format(msgspec.json.encode(status), indent=2))
            elif not Console().is_terminal:
                Console().print(_view(status))
            else:
                with Live(_view(status), auto_refresh=False) as live:
                    while True:
                        await asyncio.sleep(REFRESH_INTERVAL_S)
                        live.update(_view(await client.status()), refresh=True)

    _run(run)


def statuses(manager: str, timeout_s: float) -> tuple[ModelStatus, ...]:
    """The state of all models; raises `Unavailable` if the manager does not answer in time."""
    async def ask() -> ManagerStatus:
        async with _client(manager) as client:
            return await asyncio.wait_for(client.status(), timeout_s)

    try:
        return asyncio.run(ask()).models
    except asyncio.TimeoutError:
        raise Unavailable(f"the model manager at {manager} has not answered within {timeout_s:g} s"
                          ) from None


def _do(manager: str, verb: Verb, name: str) -> None:
    async def run() -> None:
        async with _client(manager) as client:
            work = asyncio.ensure_future(client.do(verb, name))
            with Console(stderr=True).status(f"{verb} {name}") as shown:
                while not (await asyncio.wait({work}, timeout=REFRESH_INTERVAL_S))[0]:
                    shown.update(f"{verb} {name}: {_progress(await client.status(), name)}")
            await work

    _run(run)
    typer.echo(f"{verb} {name}: done")


def _run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    try:
        asyncio.run(work())
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def _client(address: str) -> ManagerClient:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise InvalidArgument("manager", address, "it must be HOST:PORT")
    return ManagerClient(host.strip("[]"), int(port))


def _progress(status: ManagerStatus, name: str) -> str:
    return next((model.progress or model.state for model in status.models if model.name == name),
                "")


def _view(status: ManagerStatus) -> Group:
    table = Table(*(Column(name, overflow="fold", no_wrap=name not in WRAPPED,
                           min_width=WRAPPED.get(name)) for name in COLUMNS),
                  box=None, pad_edge=False)
    for model in status.models:
        table.add_row(*_row(model))
    budget = _gib(status.budget_bytes) if status.budget_bytes else "any"
    failures = [Text(f"{model.name}: {model.failure}") for model in status.models if model.failure]
    return Group(table, Text(f"{_gib(status.needed_bytes)} of {budget} GiB, at most "
                             f"{status.max_models or 'any number of'} models"), *failures)


def _row(model: ModelStatus) -> tuple[str, ...]:
    return (model.name, model.task, ", ".join(map(str, model.versions)),
            " ".join([model.state, *["pinned"] * model.is_pinned, model.progress]).rstrip(),
            f"{model.num_waiting} waiting" if model.num_waiting else str(model.num_leases),
            f"{_gib(model.resident_bytes)}/{_gib(model.needed_bytes)}", _duration(model.idle_s),
            f"{model.num_loads}, {model.load_s:.1f} s" if model.load_s else str(model.num_loads),
            str(model.num_requests))


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.2f}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 2 * MINUTE_S:
        return f"{seconds:.0f} s"
    return f"{seconds / MINUTE_S:.0f} m" if seconds < 2 * HOUR_S else f"{seconds / HOUR_S:.0f} h"
