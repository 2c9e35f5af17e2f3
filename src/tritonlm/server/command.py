"""The `serve` command: its options are the fields of the settings, their defaults and texts."""

from __future__ import annotations

import ast
import inspect
import signal
import textwrap
from dataclasses import fields
from typing import Annotated, Any, get_type_hints

import typer
from rich.console import Console

from tritonlm.config import ENV_PREFIX, ModelConfig
from tritonlm.server import announcement, launcher
from tritonlm.server.log import PREFIX
from tritonlm.server.settings import ServerSettings

SERVE_CONTEXT = {"auto_envvar_prefix": ENV_PREFIX.rstrip("_")}
SET_BY_LAUNCHER = frozenset({"run_dir"})


def serve(**values: Any) -> None:
    """Start tritonserver with the models, say when it is ready, and stop it on Ctrl-C.

    An option may also be set in the environment: --http-port as TRITONLM_HTTP_PORT.
    """
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    _stop_on_signals()
    try:
        plan = launcher.prepare(_settings(ServerSettings, values), _settings(ModelConfig, values))
        _run(plan, console)
    except KeyboardInterrupt:
        console.print(f"{PREFIX}stopped", markup=False)


def _run(plan: launcher.Launch, console: Console) -> None:
    def report(line: str) -> None:
        console.print(line, markup=False)

    report(f"{PREFIX}starting tritonserver with {plan.config.model}")
    with (console.status("loading the models") as status,
          launcher.launch(plan, report) as server):
        status.stop()
        print(announcement.text(server, plan.config.model), flush=True)
        try:
            server.watch()
        except KeyboardInterrupt:
            report(f"{PREFIX}stopping")
            raise


def _stop_on_signals() -> None:
    """End as on Ctrl-C; a hang-up that `nohup` has set to be ignored stays ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


def _settings(kind: Any, values: dict[str, Any]) -> Any:
    return kind(**{field.name: values[field.name] for field in fields(kind)
                   if field.name not in SET_BY_LAUNCHER})


def _options(kind: type[Any]) -> list[inspect.Parameter]:
    """One option for each field of the dataclass `kind`."""
    texts, types = _field_texts(kind), get_type_hints(kind)

    def option(name: str, default: Any) -> inspect.Parameter:
        about = typer.Option(help=texts[name], show_envvar=False)
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default,
                                 annotation=Annotated[types[name], about])

    return [option(field.name, field.default) for field in fields(kind)
            if field.name not in SET_BY_LAUNCHER]


def _field_texts(kind: type[Any]) -> dict[str, str]:
    """The sentence that stands under each field in the source."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    return {field.target.id: text.value.value
            for field, text in zip(body.body, body.body[1:], strict=False)
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
            and isinstance(text.value.value, str)}


serve.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [*_options(ModelConfig), *_options(ServerSettings)])
