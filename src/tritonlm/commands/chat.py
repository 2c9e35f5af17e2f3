"""The `chat` command: a conversation in the terminal."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any

import typer

from tritonlm.commands.connection import connect
from tritonlm.commands.options import (
    DEFAULT_MODEL,
    DEFAULT_URL,
    MaxTokens,
    MinP,
    Model,
    Seed,
    Stop,
    Temperature,
    TopK,
    TopP,
    Url,
)
from tritonlm.commands.terminal import write
from tritonlm.errors import InvalidArgument, ServingError, Unavailable
from tritonlm_client import Client, Stream
from tritonlm_client.conversation import Conversation

with suppress(ImportError):  # gives `input` a history and keys to edit with; not on Windows
    import readline  # noqa: F401

HELP = "/reset starts over, /exit or Ctrl-D leaves, Ctrl-C ends an answer."


def chat(
    url: Url = DEFAULT_URL,
    model: Model = DEFAULT_MODEL,
    system: Annotated[str | None, typer.Option(help="What the model is to be.")] = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    min_p: MinP = None,
    seed: Seed = None,
    stop: Stop = None,
) -> None:
    """Talk with a model: /reset starts over, /exit or Ctrl-D leaves, Ctrl-C ends an answer."""
    options = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p,
               "top_k": top_k, "min_p": min_p, "seed": seed, "stop": stop}
    with connect(url, model) as client:
        if not client.is_ready():
            raise Unavailable(f"{model} at {url} is not ready; `tritonlm models` lists those "
                              "that are")
        write(f"{model} at {url}. {HELP}\n")
        _converse(client, Conversation(system), options)


def _converse(client: Client, conversation: Conversation, options: dict[str, Any]) -> None:
    while (line := _next_line()) is not None and line != "/exit":
        if line == "/reset":
            conversation.reset()
        elif line.startswith("/"):
            write(f"{HELP}\n")
        elif line:
            _answer(client, conversation, line, options)


def _next_line() -> str | None:
    """What was typed, without space around it; None for Ctrl-D, and "" for Ctrl-C."""
    try:
        return input("> ").strip()
    except EOFError:
        write("\n")
        return None
    except KeyboardInterrupt:
        write("\n")
        return ""


def _answer(
    client: Client, conversation: Conversation, question: str, options: dict[str, Any]
) -> None:
    """Print the answer to `question` as it comes; an answer cut short by Ctrl-C is one, too."""
    printed: list[str] = []
    try:
        _print(client.stream(conversation.with_question(question), **options), printed)
    except KeyboardInterrupt:
        write(" [cancelled]")
    except ServingError as error:
        _explain(error)
        return
    write("\n")
    conversation.add(question, "".join(printed))


def _print(stream: Stream, printed: list[str]) -> None:
    with stream:
        for chunk in stream:
            printed.append(chunk.text)
            write(chunk.text)


def _explain(error: ServingError) -> None:
    typer.echo(f"tritonlm: {error.message}", err=True)
    if isinstance(error, InvalidArgument):
        typer.echo("The question is not kept; if the chat is too long, /reset starts over.",
                   err=True)
