"""The `serve` command: its options are the fields of the settings, their defaults and texts."""

from __future__ import annotations

import inspect
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache, partial
from typing import Any

from rich.console import Console

from tritonlm.config import ENV_PREFIX, ModelConfig
from tritonlm.logs import JSON_START, PREFIX, json_line
from tritonlm.server import announcement, gateway_process, launcher, supervisor
from tritonlm.server.flags import options_of, settings_of
from tritonlm.server.gateway_process import GatewayStart
from tritonlm.server.settings import ServerSettings
from tritonlm.server.tritonserver import TritonServer

CONSOLE = Console(stderr=True, highlight=False, soft_wrap=True)
SERVE_CONTEXT = {"auto_envvar_prefix": ENV_PREFIX.rstrip("_")}
SET_BY_LAUNCHER = frozenset({"run_dir", "engines_of", "server_url", "drain_timeout_s"})


def serve(**values: Any) -> None:
    """Start tritonserver with the models, say when it is ready, and stop it on Ctrl-C.

    An option may also be set in the environment: --http-port as TRITONLM_HTTP_PORT.
    """
    report = reporter(values["log_format"])
    stop_on_signals()
    try:
        plan = launcher.prepare(settings_of(ServerSettings, values),
                                settings_of(ModelConfig, values, SET_BY_LAUNCHER))
        gateway_port = settings_of(GatewayStart, values).choose_port(plan.settings)
        with ExitStack() as beside:
            # The gateway goes first: the server would wait for its streams.
            _run(plan, report, partial(_start_gateway, beside, gateway_port, values["model"],
                                       log_format=values["log_format"], report=report),
                 beside.close)
    except KeyboardInterrupt:
        report(f"{PREFIX}stopped")


def _start_gateway(
    beside: ExitStack, port: int | None, model: str, server: ServerSettings, **how: Any
) -> str | None:
    """The URL of a gateway that lives as long as `beside`, if there is to be one."""
    if port is None:
        return None
    return beside.enter_context(gateway_process.running(port, server, model, **how))


def _run(
    plan: launcher.Launch, report: Callable[[str], None],
    start_gateway: Callable[[ServerSettings], str | None], stop_gateway: Callable[[], None],
) -> None:
    report(f"{PREFIX}starting tritonserver with {plan.config.model}")
    start_once = cache(start_gateway)  # it finds a server that was started again by itself
    with CONSOLE.status("loading the models") as status:
        def announce(server: TritonServer) -> None:
            status.stop()
            gateway_url = start_once(plan.settings)
            if report is _report_json:
                report(json_line("serve", "ready", http=server.http_url, grpc=server.grpc_url,
                                 metrics=server.metrics_url, gateway=gateway_url))
            else:
                print(announcement.text(server, plan.config.model, gateway_url), flush=True)

        supervisor.run(plan, report, announce, stop_gateway)


def reporter(log_format: str) -> Callable[[str], None]:
    """What writes lines of progress, in one of `logs.FORMS`."""
    return _report_json if log_format == "json" else _report_text


def _report_text(line: str) -> None:
    CONSOLE.print(line, markup=False)


def _report_json(line: str) -> None:
    """Lines of models are JSON already; those of tritonserver itself never are."""
    if not line.startswith(JSON_START):
        process = "serve" if line.startswith(PREFIX) else "tritonserver"
        line = json_line(process, line.removeprefix(PREFIX))
    print(line, file=sys.stderr, flush=True)


def stop_on_signals() -> None:
    """End as on Ctrl-C; a hang-up that `nohup` has set to be ignored stays ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


serve.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [*options_of(ModelConfig, SET_BY_LAUNCHER), *options_of(ServerSettings),
     *options_of(GatewayStart)])
