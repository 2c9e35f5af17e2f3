"""The `models` command and its own: what the server's repositories hold."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from tritonlm.commands import residents
from tritonlm.commands.connection import connect
from tritonlm.commands.options import DEFAULT_MODEL, DEFAULT_URL, Json, Url
from tritonlm.contract import OPTION_TENSORS
from tritonlm_client import ModelInfo

COLUMNS = ("name", "version", "state", "decoupled", "inputs → outputs")
OPTION_NAMES = {tensor.name for tensor in OPTION_TENSORS}


models = typer.Typer(invoke_without_command=True)
for _command in (residents.load, residents.unload, residents.pin, residents.unpin,
                 residents.reload):
    models.command()(_command)


@models.callback()
def list_models(
    context: typer.Context, url: Url = DEFAULT_URL, as_json: Json = False,
    manager: Annotated[str | None, typer.Option(
        help="Host and port of a model manager: show what it has loaded, live.")] = None,
) -> None:
    """List the server's models; ? marks an optional input, and --json tells all of them.

    The commands are for a server with a model manager, which tritonlm repo serve starts.
    """
    if context.invoked_subcommand is not None:
        return
    if manager is not None:
        residents.show(manager, as_json)
        return
    with connect(url, DEFAULT_MODEL) as client:
        found = client.models()
    if as_json:
        typer.echo(json.dumps([_as_json(model) for model in found], indent=2))
    else:
        Console().print(_table(found))


def _as_json(model: ModelInfo) -> dict[str, Any]:
    return {
        "name": model.name, "version": model.version, "state": model.state,
        "reason": model.reason, "is_decoupled": model.is_decoupled,
        "inputs": [tensor._asdict() for tensor in model.inputs],
        "outputs": [tensor._asdict() for tensor in model.outputs],
    }


def _table(found: Iterable[ModelInfo]) -> Table:
    table = Table(*(Column(name, overflow="fold", no_wrap=name == "name") for name in COLUMNS),
                  box=SIMPLE_HEAD)
    for model in found:
        state = f"{model.state}: {model.reason}" if model.reason else model.state
        table.add_row(model.name, model.version, state, *_config(model))
    return table


def _config(model: ModelInfo) -> tuple[str, ...]:
    """What is known of a model that is loaded."""
    if not model.is_ready:
        return ()
    outputs = ", ".join(tensor.name for tensor in model.outputs)
    return "yes" if model.is_decoupled else "no", f"{_input_names(model)} → {outputs}"


def _input_names(model: ModelInfo) -> str:
    """The names of what is not an option, and how many options there are."""
    names = [f"{tensor.name}?" if tensor.is_optional else tensor.name
             for tensor in model.inputs if tensor.name not in OPTION_NAMES]
    num_options = len(model.inputs) - len(names)
    return ", ".join([*names, f"{num_options} options"] if num_options else names)
