"""The `tritonlm` command: one function a command, each from the module that does the work."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from tritonlm.commands.batch import batch
from tritonlm.commands.bench import bench
from tritonlm.commands.chat import chat
from tritonlm.commands.diagnose import diagnose
from tritonlm.commands.fetch import fetch
from tritonlm.commands.follow import follow
from tritonlm.commands.gateway import GATEWAY_CONTEXT, gateway
from tritonlm.commands.generate import generate
from tritonlm.commands.health import health
from tritonlm.commands.logged import Logged
from tritonlm.commands.models import models
from tritonlm.commands.new_key import new_key_command
from tritonlm.commands.repo import repo
from tritonlm.commands.top import top
from tritonlm.errors import ServingError
from tritonlm.server.command import SERVE_CONTEXT, serve


class _OneLineErrors(TyperGroup):
    """Answers a `ServingError` of any command with one line on stderr and exit code 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ServingError as error:
            typer.echo(f"tritonlm: {error.message}", err=True)
            raise typer.Exit(1) from None


app = typer.Typer(cls=_OneLineErrors, no_args_is_help=True, add_completion=False,
                  pretty_exceptions_enable=False)


@app.callback()
def tritonlm() -> None:
    """Serve Hugging Face language models on Triton Inference Server, and talk to them."""


# Further commands are registered here: app.command()(function).
app.command(cls=Logged, context_settings=SERVE_CONTEXT)(serve)
app.command(cls=Logged, context_settings=GATEWAY_CONTEXT)(gateway)
app.command(cls=Logged)(follow)
app.command("new-key")(new_key_command)
app.add_typer(repo, name="repo")
app.add_typer(models, name="models")
for _command in (generate, chat, fetch, health, top, diagnose, bench,
                 batch):
    app.command()(_command)
