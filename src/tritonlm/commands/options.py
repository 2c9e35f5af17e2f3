"""Command-line options that several commands have."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

Url: TypeAlias = Annotated[
    str, typer.Option(envvar="TRITONLM_URL", help="Host and gRPC port of the server.")]
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
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]

DEFAULT_URL = "localhost:8001"
DEFAULT_MODEL = "generate"
