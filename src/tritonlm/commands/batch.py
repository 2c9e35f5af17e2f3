"""The `batch` command: a file of requests to a file of answers."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import TimeRemainingColumn

from tritonlm.batch_files import input_file
from tritonlm.batch_files.output_file import AnswerLine, OutputFile
from tritonlm.batch_files.sender import Sender, Sending
from tritonlm.commands.terminal import progress_bar
from tritonlm.errors import InvalidArgument

INTERRUPTED = 130
TOKEN_COUNTS = ("completion_tokens", "output_tokens", "prompt_tokens")
"""Of a body's usage, the first that there is."""


def batch(
    requests: Annotated[Path, typer.Argument(metavar="IN", help="Requests, one a line.")],
    answers: Annotated[Path, typer.Argument(
        metavar="OUT", help="Their answers; where it exists, its lines are not asked for again.")],
    url: Annotated[str, typer.Option(help="The gateway.")] = "http://localhost:9000",
    api_key: Annotated[str, typer.Option(
        envvar="TRITONLM_API_KEY", help="A key of the gateway's, where it asks for one.")] = "",
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 64,
    retries: Annotated[int, typer.Option(
        min=0, help="Further attempts while the gateway is full or away.")] = 8,
    timeout_s: Annotated[float, typer.Option(
        min=0.001, help="Seconds that an attempt may take.")] = 600.0,
) -> None:
    """Answer a file in OpenAI's batch format; after a crash the same command goes on.

    Lines of IN: {"custom_id", "method": "POST", "url", "body"}; of OUT, in the order in which they
    are done: {"id", "custom_id", "response", "error"}. The exit code is 1 if a line has failed.
    """
    if not url.startswith(("http://", "https://")):
        raise InvalidArgument("--url", url, "allowed: http://HOST:PORT or https://HOST:PORT")
    custom_ids = input_file.check(requests)
    sending = Sending(url.rstrip("/"), concurrency, retries, timeout_s, api_key)
    with OutputFile(answers, custom_ids) as output, Meter(len(custom_ids), output) as meter:
        done = frozenset(output.done)
        lines = (line for line in input_file.read_lines(requests) if line.custom_id not in done)
        try:
            asyncio.run(Sender(sending, output, meter.count).run(lines))
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        finally:
            typer.echo(f"{meter}: {answers}", err=True)
    raise typer.Exit(1 if output.num_failed else 0)


class Meter:
    """Shows how far a batch is: lines, failures, tokens a second."""

    def __init__(self, num_lines: int, output: OutputFile) -> None:
        """`output` grows while the batch runs."""
        self._num_lines = num_lines
        self._output = output
        self._num_tokens = 0
        self._start_s = time.monotonic()
        self._progress = progress_bar(TimeRemainingColumn())
        self._task = self._progress.add_task("", total=num_lines, completed=len(output.done))

    def __enter__(self) -> Meter:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __str__(self) -> str:
        seconds = time.monotonic() - self._start_s
        return (f"{len(self._output.done)} of {self._num_lines} lines done, "
                f"{self._output.num_failed} of them failed, "
                f"{self._num_tokens} tokens in {seconds:.1f} s, "
                f"{self._num_tokens / max(seconds, 1e-9):.1f} tokens/s")

    def count(self, answer: AnswerLine) -> None:
        """A line is answered."""
        self._num_tokens += _num_tokens(answer)
        rate = self._num_tokens / max(time.monotonic() - self._start_s, 1e-9)
        self._progress.update(
            self._task, completed=len(self._output.done),
            description=f"{rate:,.0f} tokens/s, {self._output.num_failed} failed")


def _num_tokens(answer: AnswerLine) -> int:
    """Tokens made for it; where none are made, those that were read."""
    body = answer.response["body"] if answer.response else None
    usage = body.get("usage") if isinstance(body, dict) else None
    if not isinstance(usage, dict):
        return 0
    return int(next((usage[name] for name in TOKEN_COUNTS if name in usage), 0) or 0)
