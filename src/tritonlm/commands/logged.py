"""Commands that run until they are stopped, and have a log."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand

from tritonlm.errors import ServingError
from tritonlm.logs import json_line


class Logged(TyperCommand):
    """Tells a `ServingError` as it tells everything else if `--log-format` is json."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; its exit code is 1 after an error."""
        try:
            return super().invoke(ctx)
        except ServingError as error:
            if ctx.params["log_format"] != "json":
                raise
            typer.echo(json_line(ctx.info_name, error.message, "error"), err=True)
            raise typer.Exit(1) from None
