"""Settings of the engine as options of a command."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

from tritonlm.errors import InvalidArgument

Settings: TypeAlias = Annotated[list[str] | None, typer.Option(
    "--set", metavar="NAME=VALUE", help="A setting of the engine; may be repeated.")]


def parse_settings(texts: list[str] | None) -> dict[str, str]:
    """Names and values; raises `InvalidArgument` where there is no `=`."""
    malformed = [text for text in texts or () if "=" not in text]
    if malformed:
        raise InvalidArgument("--set", malformed[0], "allowed: NAME=VALUE")
    return dict(text.split("=", maxsplit=1) for text in texts or ())
