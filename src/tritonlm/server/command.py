"""The `serve` command: its options are the fields of the settings, their defaults and texts."""

from __future__ import annotations

import inspect
import signal
from typing import Any

from rich.console import Console

from tritonlm.config import ENV_PREFIX, ModelConfig
from tritonlm.server import announcement, launcher, supervisor
from tritonlm.server.flags import options_of, settings_of
from tritonlm.server.log import PREFIX
from tritonlm.server.settings import ServerSettings
from tritonlm.server.tritonserver import TritonServer

SERVE_CONTEXT = {"auto_envvar_prefix": ENV_PREFIX.rstrip("_")}
SET_BY_LAUNCHER = frozenset({"run_dir", "engines_of", "server_url", "drain_timeout_s"})


def serve(**values: Any) -> None:
    """Start tritonserver with the models, say when it is ready, and stop it on Ctrl-C.

    An option may also be set in the environment: --http-port as TRITONLM_HTTP_PORT.
    """
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    _stop_on_signals()
    try:
        plan = launcher.prepare(settings_of(ServerSettings, values),
                                settings_of(ModelConfig, values, SET_BY_LAUNCHER))
        _run(plan, console)
    except KeyboardInterrupt:
        console.print(f"{PREFIX}stopped", markup=False)


def _run(plan: launcher.Launch, console: Console) -> None:
    def report(line: str) -> None:
        console.print(line, markup=False)

    report(f"{PREFIX}starting tritonserver with {plan.config.model}")
    with console.status("loading the models") as status:
        def announce(server: TritonServer) -> None:
            status.stop()
            print(announcement.text(server, plan.config.model), flush=True)

        supervisor.run(plan, report, announce)


def _stop_on_signals() -> None:
    """End as on Ctrl-C; a hang-up that `nohup` has set to be ignored stays ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


serve.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [*options_of(ModelConfig, SET_BY_LAUNCHER), *options_of(ServerSettings)])
