"""Command-line options that several commands have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

import typer

from tritonlm.errors import InvalidArgument

Url: TypeAlias = Annotated[
    str, typer.Option(envvar="TRITONLM_URL", help="The server: HOST:PORT of its gRPC, or http://HOST:PORT.")]
Model: TypeAlias = Annotated[str, typer.Option(help="The model, as the server names it.")]
MaxTokens: TypeAlias = Annotated[
    int | None, typer.Option(help="At most this many tokens; the server has a default.")]
Temperature: TypeAlias = Annotated[
    float | None, typer.Option(help="0 always takes the likeliest token; the default is 1.")]
TopP: TypeAlias = Annotated[
    float | None, typer.Option(help="Draw from the likeliest tokens of this total probability.")]
TopK: TypeAlias = Annotated[int | None, typer.Option(help="Draw from this many likeliest tokens.")]
MinP: TypeAlias = Annotated[
    float | None,
    typer.Option(help="Draw from tokens at least this likely, relative to the likeliest.")]
Seed: TypeAlias = Annotated[
    int | None, typer.Option(help="The same seed and options give the same text.")]
Stop: TypeAlias = Annotated[
    list[str] | None, typer.Option(help="End before this text; may be repeated.")]
Others: TypeAlias = Annotated[list[str] | None, typer.Option(
    "--option", "-o", metavar="NAME=VALUE",
    help="Any other option of generation, such as repetition_penalty=1.2; may be repeated, and so "
         "may the name of one that is a list.")]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]

DEFAULT_URL = "localhost:8001"
DEFAULT_MODEL = "generate"


def merge_options(flags: Mapping[str, Any], others: list[str] | None) -> dict[str, Any]:
    """The options of `flags`, and `others`, texts NAME=VALUE that the client has yet to check.

    Raises `InvalidArgument` for one without `=`, or with a flag that is given too.
    """
    values: dict[str, list[str]] = {}
    for text in others or ():
        name, equals, value = text.partition("=")
        if not equals:
            raise InvalidArgument("--option", text, "allowed: NAME=VALUE")
        if flags.get(name) is not None:
            raise InvalidArgument("--option", text, f"--{name.replace('_', '-')} is given too")
        values.setdefault(name, []).append(value)
    return {**flags, **{name: items if len(items) > 1 else items[0]
                        for name, items in values.items()}}
