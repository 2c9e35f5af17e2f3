"""The `repo serve` command: a server that loads the models of a store as they are needed."""

from __future__ import annotations

import inspect
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer

from tritonlm import logs
from tritonlm.config import ModelConfig
from tritonlm.errors import StartFailure
from tritonlm.manager.limits import Limits
from tritonlm.server import gateway_process, launcher, manager_thread, supervisor
from tritonlm.server.announcement import gateway_lines
from tritonlm.server.command import reporter, stop_on_signals
from tritonlm.server.flags import options_of, settings_of
from tritonlm.server.gateway_process import GatewayStart
from tritonlm.server.manager_thread import ManagerStart
from tritonlm.server.model_store import DEFAULT_FOLDER, ModelStore
from tritonlm.server.settings import ServerSettings
from tritonlm.server.tritonserver import TritonServer

TAKEN = ("host", "http_port", "grpc_port", "metrics_port", "exit_timeout_s", "tritonserver",
         "log_file", "verbose")
"""Settings of the server that have to do with a store: others are each model's own."""


def serve_store(**values: Any) -> None:
    """Serve the models of a repository, each loaded when it is first asked for.

    Clients of the gateway ask for models by their names. Who talks to Triton itself loads or pins
    them first: tritonlm models load NAME.

    An option may also be set in the environment: --max-models as TRITONLM_MAX_MODELS.
    """
    store = ModelStore(values["repository"].expanduser().resolve())
    limits = settings_of(Limits, values)
    if not store.names():
        raise StartFailure(f"there are no models in {store.folder}: tritonlm repo add NAME --from "
                           "HUB_ID_OR_PATH adds one")
    stop_on_signals()
    try:
        plan = launcher.prepare_store(ServerSettings(**{name: values[name] for name in TAKEN}),
                                      store.folder, values["log_format"])
        manager = settings_of(ManagerStart, values).with_port(plan.settings)
        gateway = settings_of(GatewayStart, values)
        with ExitStack() as beside:
            _run(plan, store, limits, manager, gateway, beside)
    except KeyboardInterrupt:
        reporter(values["log_format"])(f"{logs.PREFIX}stopped")


def _run(
    plan: launcher.Launch, store: ModelStore, limits: Limits, manager: ManagerStart,
    gateway: GatewayStart, beside: ExitStack,
) -> None:
    """Keep server, manager and gateway running; the gateway ends first, then the manager."""
    managed = beside.enter_context(ExitStack())
    gateway_port, log_format = gateway.choose_port(plan.settings), plan.config.log_format
    report = reporter(log_format)
    logs.configure("manager", log_format, "tritonlm.manager")

    @cache
    def start_gateway() -> str | None:
        if gateway_port is None:
            return None
        return beside.enter_context(gateway_process.running(
            gateway_port, plan.settings, None, log_format=log_format,
            manager_port=manager.manager_port, report=report))

    def announce(server: TritonServer) -> None:
        managed.close()  # of a server that is gone
        managed.enter_context(
            manager_thread.running(server, plan.settings.host, store, limits, manager))
        manager_url, gateway_url = f"{server.host}:{manager.manager_port}", start_gateway()
        if log_format == "json":
            report(_ready_line(server, manager_url, gateway_url))
        else:
            print(_announcement(server, store, manager_url, gateway_url), flush=True)

    report(f"{logs.PREFIX}starting tritonserver with the models of {store.folder}")
    supervisor.run(plan, report, announce, beside.close)


def _ready_line(server: TritonServer, manager_url: str, gateway_url: str | None) -> str:
    return logs.json_line("serve", "ready", http=server.http_url, grpc=server.grpc_url,
                          metrics=server.metrics_url, manager=manager_url, gateway=gateway_url)


def _announcement(
    server: TritonServer, store: ModelStore, manager_url: str, gateway_url: str | None
) -> str:
    return f"""
ready: {', '.join(store.names())}
  HTTP     {server.http_url}
  gRPC     {server.grpc_url}
  metrics  {server.metrics_url}
  manager  {manager_url}{gateway_lines(gateway_url)}

See what is loaded: tritonlm models --manager {manager_url}

Ctrl-C stops the server.
"""


serve_store.__signature__ = inspect.Signature([  # type: ignore[attr-defined]
    inspect.Parameter("repository", inspect.Parameter.KEYWORD_ONLY, default=DEFAULT_FOLDER,
                      annotation=Annotated[Path, typer.Option(
                          envvar="TRITONLM_REPOSITORY", help="Folder of the models.")]),
    *options_of(ServerSettings, {field for field in ServerSettings.__dataclass_fields__
                                 if field not in TAKEN}),
    *options_of(ModelConfig, ModelConfig.__dataclass_fields__.keys() - {"log_format"}),
    *options_of(ManagerStart), *options_of(Limits), *options_of(GatewayStart),
])
