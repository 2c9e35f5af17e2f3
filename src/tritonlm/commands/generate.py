"""The `generate` command: one prompt, its text as it comes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from tritonlm.commands.connection import connect
from tritonlm.commands.options import (
    DEFAULT_MODEL,
    DEFAULT_URL,
    MaxTokens,
    MinP,
    Model,
    Seed,
    Stop,
    Temperature,
    TopK,
    TopP,
    Url,
)
from tritonlm.commands.terminal import end_line, write
from tritonlm.errors import InvalidArgument, Unavailable
from tritonlm_client import Chunk, Client, Completion


@dataclass(frozen=True)
class Stats:
    """Counts and times of one answer; `last` has the counts of all of it."""

    last: Chunk | Completion
    first_token_s: float
    total_s: float

    def __str__(self) -> str:
        num_out = self.last.num_output_tokens or 0
        return (f"{self.last.num_input_tokens} tokens in, {num_out} tokens out, "
                f"first after {self.first_token_s:.3f} s, all after {self.total_s:.3f} s, "
                f"{num_out / self.total_s:.1f} tokens/s, ended by {self.last.finish_reason}")


def generate(
    prompt: Annotated[str, typer.Argument(help="The text to go on from; - reads it from stdin.")],
    url: Url = DEFAULT_URL,
    model: Model = DEFAULT_MODEL,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    min_p: MinP = None,
    seed: Seed = None,
    stop: Stop = None,
    ids: Annotated[bool, typer.Option("--ids", help="Print token ids, one a line.")] = False,
    stream: Annotated[bool, typer.Option(help="Print text as it comes, or all at the end.")] = True,
    stats: Annotated[bool, typer.Option("--stats", help="Counts and times on stderr.")] = False,
) -> None:
    """Print what the model writes after PROMPT; Ctrl-C stops it, at the server too."""
    options = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p,
               "top_k": top_k, "min_p": min_p, "seed": seed, "stop": stop}
    text = _stdin_text() if prompt == "-" else prompt
    with connect(url, model) as client:
        answer = _print_answer(_pieces(client, text, stream, options), ids)
    if stats:
        typer.echo(str(answer), err=True)


def _stdin_text() -> str:
    raw = sys.stdin.buffer.read()
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgument("stdin", raw, f"it must be UTF-8: {error}") from None


def _pieces(
    client: Client, prompt: str, is_stream: bool, options: dict[str, Any]
) -> Iterator[Chunk | Completion]:
    if not is_stream:
        yield client.generate(prompt, **options)
        return
    with client.stream(prompt, **options) as stream:
        yield from stream


def _print_answer(pieces: Iterator[Chunk | Completion], is_ids: bool) -> Stats:
    start_s = time.monotonic()
    last, times_s = None, []
    for last in pieces:
        times_s.append(time.monotonic() - start_s)
        write("".join(f"{token_id}\n" for token_id in last.token_ids) if is_ids else last.text)
    if last is None:
        raise Unavailable("the answer ended before its first token")
    end_line()
    return Stats(last, times_s[0], times_s[-1])
