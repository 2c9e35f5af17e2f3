"""The `serve` command: options of the server and of its models."""

from __future__ import annotations

from typing import Annotated

import typer

from tritonlm.config import ENV_PREFIX, ModelConfig

SERVE_CONTEXT = {"auto_envvar_prefix": ENV_PREFIX.rstrip("_")}
"""Every option may be given as an environment variable: `TRITONLM_` and its name."""


def serve(
    model: Annotated[str, typer.Option(help="Hub id or checkpoint folder.")] = ModelConfig.model,
) -> None:
    """Start tritonserver with the models, say when it is ready, and stop it on Ctrl-C."""
    raise NotImplementedError
