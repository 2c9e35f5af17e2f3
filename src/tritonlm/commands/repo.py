"""The `repo` commands: the models that one server loads as they are needed."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tritonlm.commands.logged import Logged
from tritonlm.commands.options import Json
from tritonlm.config import settings_texts
from tritonlm.errors import InvalidArgument, ServingError
from tritonlm.server.command import SERVE_CONTEXT, SET_BY_LAUNCHER
from tritonlm.server.flags import option, options_of
from tritonlm.server.model_checks import check, complete, find_problems
from tritonlm.server.model_store import DEFAULT_FOLDER, SETTINGS, ModelStore, StoredModel
from tritonlm.server.store_command import serve_store

HIDDEN = SET_BY_LAUNCHER | {"model", "revision"}
Repository: TypeAlias = Annotated[Path, typer.Option(
    "--repository", envvar="TRITONLM_REPOSITORY", help="Folder of the models.")]
Name: TypeAlias = Annotated[str, typer.Argument(
    metavar="NAME", help="What clients call the model.")]
repo = typer.Typer(no_args_is_help=True, help="Models that one server loads as they are needed.")


def add(**values: Any) -> None:
    """Add a model, or with --version a further version of one, if it can run on this machine.

    Settings are those of its task; unset, they have their defaults:
    tritonlm repo add poet --from /path/to/checkpoint --max-model-len 2048
    """
    name, task, version = values["name"], values["task"], values["version"]
    store = ModelStore(values["repository"].expanduser())
    if values["if_missing"] and name in store.names() and version in store.versions(name):
        typer.echo(f"{name}, version {version}, is in {store.folder} already")
        return
    if values["front_ends"] < 1:
        raise InvalidArgument("front_ends", values["front_ends"], "allowed: 1 and more")
    store.check_new(name, task, version)
    texts = {key: values[key] for key in _SETTING_NAMES if values[key] is not None}
    config = complete(values["source"], values["revision"], task, texts)
    store.add(name, task, config, version, values["front_ends"])
    typer.echo(f"added {name}, version {version}, to {store.folder}; it needs "
               f"{check(config, task)}")


@repo.command("list")
def list_models(repository: Repository = DEFAULT_FOLDER, as_json: Json = False) -> None:
    """List the models."""
    store = ModelStore(repository.expanduser())
    models, is_sound = [], True
    for name in store.names():
        try:
            models.append(store.read(name))
        except ServingError as error:  # the others are there all the same
            typer.echo(f"{name}: {error.message}", err=True)
            is_sound = False
    if as_json:
        typer.echo(json.dumps([_as_json(model) for model in models], indent=2))
    elif models:
        Console().print(_table(models))
    elif is_sound:
        typer.echo(f"no models in {store.folder}; `tritonlm repo add NAME --from MODEL` adds one")
    raise typer.Exit(0 if is_sound else 1)


@repo.command()
def show(name: Name, repository: Repository = DEFAULT_FOLDER, as_json: Json = False) -> None:
    """Show a model's versions, their settings and what they need."""
    model = ModelStore(repository.expanduser()).read(name)
    if as_json:
        typer.echo(json.dumps(_as_json(model), indent=2))
        return
    typer.echo(f"{name}: {model.task}; Triton's models: {', '.join(model.parts)}"
               + "".join(f", {ensemble}" for ensemble in model.ensembles))
    for version, config in model.versions.items():
        typer.echo(f"version {version} needs {check(config, model.task)}")
        for key, text in settings_texts(config).items():
            typer.echo(f"  {key} = {text}")


@repo.command()
def remove(
    name: Name, repository: Repository = DEFAULT_FOLDER,
    version: Annotated[int | None, typer.Option(help="This version alone.")] = None,
) -> None:
    """Delete a model, or one of its versions; a server that has it loaded goes on with it."""
    store = ModelStore(repository.expanduser())
    store.remove(name, version)
    typer.echo(f"removed {name}{'' if version is None else f', version {version},'} from "
               f"{store.folder}")


@repo.command()
def validate(repository: Repository = DEFAULT_FOLDER) -> None:
    """Check that all models can run on this machine; the exit code is 1 if one cannot."""
    store = ModelStore(repository.expanduser())
    is_sound = True
    for name in store.names():
        problems = list(find_problems(store, name))
        is_sound = is_sound and not problems
        for line in problems or ["ok"]:
            typer.echo(f"{name}: {line}")
    raise typer.Exit(0 if is_sound else 1)


def _table(models: Sequence[StoredModel]) -> Table:
    table = Table("name", "task", "versions", "model", box=SIMPLE_HEAD)
    for model in models:
        newest = model.versions[max(model.versions)]
        table.add_row(model.name, model.task, ", ".join(map(str, model.versions)), newest.model)
    return table


def _as_json(model: StoredModel) -> dict[str, Any]:
    return {"name": model.name, "task": model.task, "parts": model.parts,
            "ensembles": model.ensembles,
            "versions": {str(version): settings_texts(config)
                         for version, config in model.versions.items()}}


def _setting_options() -> dict[str, inspect.Parameter]:
    """An option for each setting of any task; which ones a task has is checked with its values."""
    options = {option.name: option for kind in reversed(SETTINGS.values())
               for option in options_of(kind, HIDDEN)}
    return {name: option.replace(default=None, annotation=_as_text(option.annotation))
            for name, option in options.items()}


def _as_text(annotation: Any) -> Any:
    [about] = annotation.__metadata__
    return Annotated[str | None, typer.Option(help=about.help, show_envvar=False)]


_SETTINGS = _setting_options()
_SETTING_NAMES = tuple(_SETTINGS)
add.__signature__ = inspect.Signature([  # type: ignore[attr-defined]
    option("name", Name, inspect.Parameter.empty),
    option("source", Annotated[str, typer.Option(
        "--from", help="A hub id, or the path of a checkpoint folder.")],
        inspect.Parameter.empty),
    option("task", Annotated[str, typer.Option(help=f"One of {', '.join(SETTINGS)}.")],
            "generate"),
    option("repository", Repository, DEFAULT_FOLDER),
    option("revision", Annotated[str | None, typer.Option(
        help="Branch, tag or commit of a hub model.")], None),
    option("version", Annotated[int, typer.Option(help="Number of the version.")], 1),
    option("if_missing", Annotated[bool, typer.Option(
        "--if-missing", help="Leave a model that has this version as it is.")], False),
    option("front_ends", Annotated[int, typer.Option(
        help="Processes of a model that generates, which take requests and send tokens.")], 1),
    *_SETTINGS.values(),
])
repo.command()(add)
repo.command("serve", cls=Logged, context_settings=SERVE_CONTEXT)(serve_store)
