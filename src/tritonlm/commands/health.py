"""The `health` command: does the server do what it says it can?"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from typing import Annotated

import typer

from tritonlm.commands.connection import no_server
from tritonlm.commands.options import DEFAULT_MODEL, DEFAULT_URL, Json, Model, Url
from tritonlm.commands.residents import statuses
from tritonlm.errors import ServingError, Unavailable
from tritonlm_client import Client


@dataclass(frozen=True)
class Health:
    """What a server says of itself, and what came of asking it for one token."""

    is_live: bool
    is_ready: bool = False
    models: dict[str, str] = field(default_factory=dict)
    """The state of each model."""
    inference_s: float | None = None
    """How long one token took; None if none came."""
    error: str = ""
    """Why no token came."""
    is_full: bool = False
    """No token came because too many requests wait: the model is well, and busy."""

    def is_healthy(self, may_be_full: bool = False) -> bool:
        """Whether the server is ready and a token came: a dead model still calls itself ready."""
        return self.is_ready and self.answers(may_be_full)

    def answers(self, may_be_full: bool = False) -> bool:
        """Whether a token came, or would have but for others that wait."""
        return self.inference_s is not None or (may_be_full and self.is_full)


def health(
    url: Url = DEFAULT_URL,
    model: Model = DEFAULT_MODEL,
    timeout_s: Annotated[float, typer.Option(help="Seconds that one token may take.")] = 30.0,
    may_be_full: Annotated[bool, typer.Option(
        "--may-be-full", help="A model whose queue is full is well too: whether to restart it.",
    )] = False,
    manager: Annotated[str | None, typer.Option(
        metavar="HOST:PORT", help="Of a server that loads models on demand: ask its model manager, "
                                  "and for a token of each pinned model, instead of MODEL.",
    )] = None,
    as_json: Json = False,
) -> None:
    """Ask the server how it is, and for one token; the exit code is 1 if anything is amiss."""
    if manager is not None:
        raise typer.Exit(_report_pinned(url, manager, timeout_s, may_be_full, as_json))
    with Client(url, model) as client:
        found = examine(client, timeout_s)
    if as_json:
        typer.echo(json.dumps(asdict(found) | {"is_healthy": found.is_healthy(may_be_full)},
                              indent=2))
    elif not found.is_live:
        raise no_server(url)
    else:
        typer.echo(_report(found, model))
    raise typer.Exit(0 if found.is_healthy(may_be_full) else 1)


def examine(client: Client, timeout_s: float) -> Health:
    """The health of the client's server and model."""
    if not client.is_live():
        return Health(is_live=False)
    states = {model.name: model.state for model in client.models()}
    is_ready = client.is_ready()
    start_s = time.monotonic()
    try:
        client.generate("Hi", max_tokens=1, priority="urgent", timeout_s=timeout_s)
    except ServingError as error:
        is_full = isinstance(error, Unavailable) and error.retry_after_s is not None
        return Health(True, is_ready, states, error=error.message, is_full=is_full)
    return Health(True, is_ready, states, inference_s=time.monotonic() - start_s)


def _report_pinned(
    url: str, manager: str, timeout_s: float, may_be_full: bool, as_json: bool
) -> int:
    """Print the health of what is pinned, and return the exit code; raises `Unavailable`.

    That a model is being loaded, in which case Triton calls itself not ready, is no fault here.
    """
    models = statuses(manager, timeout_s)
    found = {}
    for name in [model.name for model in models if model.is_pinned and model.task == "generate"]:
        with Client(url, name) as client:
            found[name] = examine(client, timeout_s)
    with Client(url) as client:
        is_live = client.is_live()
    is_healthy = is_live and all(each.answers(may_be_full) for each in found.values())
    if as_json:
        typer.echo(json.dumps({"is_live": is_live, "is_healthy": is_healthy, "pinned": {
            name: asdict(each) for name, each in found.items()}}, indent=2))
    elif not is_live:
        raise no_server(url)
    else:
        typer.echo("\n".join([
            "server: live", f"manager: answers, has {len(models)} models",
            *(f"inference of {name}: {_what_came(each)}" for name, each in found.items())]))
    return 0 if is_healthy else 1


def _what_came(found: Health) -> str:
    return found.error if found.inference_s is None else f"one token in {found.inference_s:.3f} s"


def _report(found: Health, model: str) -> str:
    return "\n".join([
        "server: live",
        f"server and {model}: {'ready' if found.is_ready else 'not ready'}",
        *(f"model {name}: {state or 'not loaded'}" for name, state in found.models.items()),
        f"inference of {model}: {_what_came(found)}",
    ])
