"""The `new-key` command: a key for the gateway, and its entry in the file of keys."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from tritonlm.gateway.keys import hashed, new_key


def new_key_command(
    name: Annotated[str, typer.Argument(help="Whose key it is; logs and fairness go by it.")],
) -> None:
    """Make an API key: the key is shown once, and its entry goes into the file of keys."""
    key = new_key()
    typer.echo(f"key: {key}")
    typer.echo(json.dumps({"name": name, "sha256": hashed(key), "requests_per_minute": 600,
                           "max_concurrent": 32, "priority": "normal"}))
