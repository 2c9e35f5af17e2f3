"""The `fetch` command: a checkpoint is there before a server needs it."""

from __future__ import annotations

from typing import Annotated

import typer

from tritonlm.server import checkpoint


def fetch(
    model: Annotated[str, typer.Argument(envvar="TRITONLM_MODEL",
                                         help="A hub id, or the path of a checkpoint folder.")],
    revision: Annotated[str | None, typer.Option(envvar="TRITONLM_REVISION",
                                                 help="Branch, tag or commit.")] = None,
) -> None:
    """Fetch what is missing of a model, check that it is whole, and print its folder.

    With HF_HUB_OFFLINE=1 nothing is fetched, and what is missing is an error.
    """
    typer.echo(checkpoint.resolve(model, revision))
