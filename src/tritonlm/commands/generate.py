"""The `generate` command: one prompt, its text as it comes."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import typer

from tritonlm.commands.connection import connect
from tritonlm.commands.options import (
    DEFAULT_MODEL,
    DEFAULT_URL,
    Json,
    MaxTokens,
    MinP,
    Model,
    Others,
    Seed,
    Stop,
    Temperature,
    TopK,
    TopP,
    Url,
    merge_options,
)
from tritonlm.commands.terminal import end_line, write
from tritonlm.errors import InvalidArgument, Unavailable
from tritonlm_client import Chunk, Client, Completion


@dataclass(frozen=True)
class Stats:
    """Counts and times of an answer, whose last piece is `last`."""

    last: Chunk | Completion
    num_output_tokens: int
    first_token_s: float
    total_s: float

    def __str__(self) -> str:
        num_out = self.num_output_tokens
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
    option: Others = None,
    ids: Annotated[bool, typer.Option("--ids", help="Print token ids, one a line.")] = False,
    as_json: Json = False,
    stream: Annotated[bool, typer.Option(help="Print text as it comes, or all at the end.")] = True,
    stats: Annotated[bool, typer.Option("--stats", help="Counts and times on stderr.")] = False,
) -> None:
    """Print what the model writes after PROMPT; Ctrl-C stops it, at the server too.

    Of several answers (-o n=2) each is printed when all are there, with a line --- between them;
    with --json each piece is an object on a line, as it comes.
    """
    options = merge_options({
        "max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "top_k": top_k,
        "min_p": min_p, "seed": seed, "stop": stop}, option)
    text = _stdin_text() if prompt == "-" else prompt
    form = _json_line if as_json else _ids if ids else _text
    is_stream = stream and (as_json or options.get("n", "1") == "1")
    with connect(url, model) as client:
        answer = _print_answer(_pieces(client, text, is_stream, options), form)
    if stats:
        typer.echo(str(answer), err=True)


def _json_line(piece: Chunk | Completion) -> str:
    return json.dumps(asdict(piece), default=list) + "\n"  # bytes become lists of numbers


def _ids(piece: Chunk | Completion) -> str:
    return "".join(f"{token_id}\n" for token_id in piece.token_ids)


def _text(piece: Chunk | Completion) -> str:
    return piece.text


def _stdin_text() -> str:
    raw = sys.stdin.buffer.read()
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgument("stdin", raw, f"it must be UTF-8: {error}") from None


def _pieces(
    client: Client, prompt: str, is_stream: bool, options: dict[str, Any]
) -> Iterator[Chunk | Completion]:
    if is_stream:
        with client.stream(prompt, **options) as stream:
            yield from stream
    else:
        answer = client.generate(prompt, **options)
        yield replace(answer, others=())
        yield from answer.others


def _print_answer(
    pieces: Iterator[Chunk | Completion], form: Callable[[Chunk | Completion], str]
) -> Stats:
    start_s = time.monotonic()
    last, times_s, num_tokens = None, [], 0
    for piece in pieces:
        if isinstance(last, Completion) and form is not _json_line:
            write("\n---\n")
        times_s.append(time.monotonic() - start_s)
        num_tokens += len(piece.token_ids)
        write(form(piece))
        last = piece
    if last is None:
        raise Unavailable("the answer ended before its first token")
    end_line()
    return Stats(last, num_tokens, times_s[0], times_s[-1])
