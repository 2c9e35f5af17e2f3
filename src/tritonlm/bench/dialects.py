"""How each HTTP backend is asked, and how its events are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from tritonlm.bench.asks import Ask
from tritonlm.bench.load import Load
from tritonlm.bench.seen import Watch

Read = Callable[[bytes, float, Watch], None]


@dataclass(frozen=True)
class Dialect:
    """Where to send what, and what to make of an event's data that came at a time."""

    path: str
    body: Callable[[Load, Ask], dict[str, Any]]
    read: Read


class Usage(msgspec.Struct):
    """OpenAI's count of tokens."""

    prompt_tokens: int
    completion_tokens: int


class OpenAIEvent(msgspec.Struct):
    """What counts of an event of OpenAI's API."""

    choices: list[msgspec.Raw] = []
    usage: Usage | None = None
    error: Any = None


class GenerateEvent(msgspec.Struct):
    """What counts of an event of `/generate_stream`."""

    num_input_tokens: int = 0
    num_output_tokens: int = 0
    error: Any = None


def _options(load: Load, ask: Ask) -> dict[str, Any]:
    options = {"max_tokens": ask.max_tokens, "temperature": load.temperature,
               "ignore_eos": load.ignore_eos}
    return options if ask.cut_to is None else options | {"truncate_prompt_tokens": ask.cut_to}


def _generate_body(load: Load, ask: Ask) -> dict[str, Any]:
    name = "text_input" if isinstance(ask.prompt, str) else "input_ids"
    return {name: ask.prompt, **_options(load, ask)}


def _openai_body(load: Load, ask: Ask) -> dict[str, Any]:
    return {"model": load.model, **_options(load, ask), "stream": True,
            "stream_options": {"include_usage": True}}


def _read_generate(data: bytes, at_s: float, watch: Watch) -> None:
    event = msgspec.json.decode(data, type=GenerateEvent)
    if event.error:
        watch.error = str(event.error)
        return
    watch.chunks_s.append(at_s)
    watch.num_input_tokens = event.num_input_tokens
    watch.num_output_tokens = event.num_output_tokens


def _read_openai(data: bytes, at_s: float, watch: Watch) -> None:
    if data == b"[DONE]":
        return
    event = msgspec.json.decode(data, type=OpenAIEvent)
    if event.error:
        watch.error = str(event.error)
    if event.choices:
        watch.chunks_s.append(at_s)
    if event.usage is not None:
        watch.num_input_tokens = event.usage.prompt_tokens
        watch.num_output_tokens = event.usage.completion_tokens


DIALECTS = {
    "triton-sse": Dialect(
        "/v2/models/{model}/generate_stream",
        lambda load, ask: {**_generate_body(load, ask), "stream": True}, _read_generate),
    "sse": Dialect(
        "/generate_stream",
        lambda load, ask: {**_generate_body(load, ask), "model": load.model}, _read_generate),
    "openai": Dialect(
        "/v1/completions",
        lambda load, ask: {**_openai_body(load, ask), "prompt": ask.prompt}, _read_openai),
    "openai-chat": Dialect(
        "/v1/chat/completions",
        lambda load, ask: {**_openai_body(load, ask), "messages": [
            {"role": "user", "content": ask.prompt}]}, _read_openai),
}
