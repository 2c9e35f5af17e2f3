"""The `follow` command: a further machine for a model that needs several."""

from __future__ import annotations

from typing import Annotated

import typer

from tritonlm.config import ENV_PREFIX, require
from tritonlm.logs import FORMS, configure


def follow(
    address: Annotated[str, typer.Argument(
        metavar="HOST:PORT", help="The server's tensor_parallel_address.")],
    node: Annotated[int, typer.Option(
        min=1, help="Number of this machine; the server's is 0.")] = 1,
    timeout_s: Annotated[float, typer.Option(
        min=1, help="Seconds to wait for the server's engine to begin.")] = 600.0,
    log_format: Annotated[str, typer.Option(
        envvar=f"{ENV_PREFIX}LOG_FORMAT", help="text or json.")] = "text",
) -> None:
    """Compute this machine's part of a model that a server on another one shares with it.

    All settings come from the server; the checkpoint must be found here too. Ends, with exit code
    1, when the server's engine does: run it again then, for the server starts another.
    """
    from tritonlm.engine.tensor_parallel import node as nodes  # noqa: PLC0415  loads torch

    require("log_format", log_format, log_format in FORMS, f"one of {', '.join(FORMS)}")
    configure("follow", log_format)
    nodes.follow(address, node, timeout_s)
