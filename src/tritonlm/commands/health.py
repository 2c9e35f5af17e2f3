"""The `health` command: does the server do what it says it can?"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import typer

from tritonlm.commands.connection import no_server
from tritonlm.commands.options import DEFAULT_URL, Json, Url
from tritonlm.commands.residents import statuses
from tritonlm.contract import task_of
from tritonlm.errors import ServingError, Unavailable
from tritonlm_client import Client, ModelInfo

ASK: dict[str, Callable[[Client, float], Any]] = {
    "generate": lambda client, timeout_s: client.generate(
        "Hi", max_tokens=1, priority="urgent", timeout_s=timeout_s),
    "embed": lambda client, timeout_s: client.embed(
        ["Hi"], model=client.model, timeout_s=timeout_s),
    "rerank": lambda client, timeout_s: client.rerank(
        "Hi", ["Hi"], model=client.model, timeout_s=timeout_s),
    "classify": lambda client, timeout_s: client.classify(
        ["Hi"], model=client.model, timeout_s=timeout_s),
}
"""The least that shows that a model works, by its task."""
FULL_QUEUE = "maximum queue size"
"""Triton's words; our own models say when to come again."""


@dataclass(frozen=True)
class Reply:
    """What came of asking a model for the least that it does."""

    task: str
    answer_s: float | None = None
    """How long the answer took; None if none came."""
    error: str = ""
    """Why none came."""
    is_full: bool = False
    """None came because too many requests wait: the model is well, and busy."""

    def __str__(self) -> str:
        what = "one token" if self.task == "generate" else "an answer"
        return self.error if self.answer_s is None else f"{what} in {self.answer_s:.3f} s"


@dataclass(frozen=True)
class Health:
    """What a server says of itself, and what came of asking its models."""

    is_live: bool
    states: Mapping[str, str] = field(default_factory=dict)
    """Of all models."""
    replies: Mapping[str, Reply] = field(default_factory=dict)
    """Of those that were asked."""

    def is_healthy(self, may_be_full: bool = False) -> bool:
        """Whether all answered: a dead model still calls itself ready.

        A server on which nothing is loaded is well, since nobody has asked for anything.
        """
        if not self.replies:
            return self.is_live and "READY" not in self.states.values()
        return all(reply.answer_s is not None or (may_be_full and reply.is_full)
                   for reply in self.replies.values())


def health(
    url: Url = DEFAULT_URL,
    model: Annotated[str | None, typer.Option(
        help="Ask this model alone; else each that is loaded.")] = None,
    timeout_s: Annotated[float, typer.Option(help="Seconds that an answer may take.")] = 30.0,
    may_be_full: Annotated[bool, typer.Option(
        "--may-be-full", help="A model whose queue is full is well too: whether to restart it.",
    )] = False,
    manager: Annotated[str | None, typer.Option(
        metavar="HOST:PORT", help="Of a server that loads models on demand: ask its model manager, "
                                  "and each pinned model, instead of what is loaded.",
    )] = None,
    as_json: Json = False,
) -> None:
    """Ask the server how it is, and its models for a token, an embedding or a score.

    The exit code is 1 if anything is amiss.
    """
    pinned = None if manager is None else {
        each.name: each.task for each in statuses(manager, timeout_s) if each.is_pinned}
    found = examine(url, model, pinned, timeout_s)
    if as_json:
        typer.echo(json.dumps(asdict(found) | {"is_healthy": found.is_healthy(may_be_full)},
                              indent=2))
    elif not found.is_live:
        raise no_server(url)
    else:
        typer.echo("\n".join([
            "server: live", *["manager: answers"] * (manager is not None),
            *(f"model {name}: {state or 'not loaded'}" for name, state in found.states.items()),
            *(f"answer of {name}: {reply}" for name, reply in found.replies.items())]))
    raise typer.Exit(0 if found.is_healthy(may_be_full) else 1)


def examine(
    url: str, model: str | None, pinned: Mapping[str, str] | None, timeout_s: float
) -> Health:
    """The health of a server, by the model of that name, those that are `pinned`, or all."""
    with Client(url) as client:
        if not client.is_live():
            return Health(is_live=False)
        infos = client.models()
    tasks = {each.name: task for each in infos if (task := _task(each)) is not None}
    if pinned is not None:
        tasks = dict(pinned)
    if model is not None:
        tasks = {model: tasks.get(model, "generate")}
    with ThreadPoolExecutor(max(1, len(tasks))) as asking:
        replies = asking.map(lambda name: _reply(url, name, tasks[name], timeout_s), tasks)
        return Health(True, {each.name: each.state for each in infos},
                      dict(zip(tasks, replies, strict=True)))


def _task(model: ModelInfo) -> str | None:
    return task_of({tensor.name for tensor in model.inputs},
                   {tensor.name for tensor in model.outputs}, model.is_decoupled)


def _reply(url: str, model: str, task: str, timeout_s: float) -> Reply:
    began_s = time.monotonic()
    try:
        with Client(url, model) as client:
            ASK[task](client, timeout_s)
    except ServingError as error:
        is_full = isinstance(error, Unavailable) and (
            error.retry_after_s is not None or FULL_QUEUE in error.message)
        return Reply(task, error=error.message, is_full=is_full)
    return Reply(task, time.monotonic() - began_s)
