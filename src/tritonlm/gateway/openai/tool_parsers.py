"""Calls of tools in what a model writes, in the formats that models were trained on.

`hermes`   <tool_call>{"name": ..., "arguments": {...}}</tool_call>, amid text (Qwen, Hermes)
`llama3`   {"name": ..., "parameters": {...}}, several after ; and nothing else (Llama 3)
`mistral`  [{"name": ..., "arguments": {...}}, ...] and nothing else (Mistral)

The special tokens that some write in front, <|python_tag|> and [TOOL_CALLS], may be missing: a text
has no special tokens. What looks like a call and is none is text.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

OPENING, CLOSING = "<tool_call>", "</tool_call>"
LLAMA_MARK, MISTRAL_MARK = "<|python_tag|>", "[TOOL_CALLS]"
DECODER = json.JSONDecoder()


class ToolCall(NamedTuple):
    """A call of a function."""

    name: str
    arguments: str
    """JSON."""


class ToolParser(Protocol):
    """Reads one answer, piece by piece."""

    def push(self, text: str, is_last: bool) -> tuple[str, list[ToolCall]]:
        """Text and calls that are certain now; what may still become a call is held back."""


class HermesParser:
    """Finds calls between tags; text may stand around them."""

    def __init__(self) -> None:
        self._rest = ""
        self._has_called = False

    def push(self, text: str, is_last: bool) -> tuple[str, list[ToolCall]]:
        """See `ToolParser`."""
        self._rest += text
        said, calls = "", []
        while (start := self._rest.find(OPENING)) >= 0:
            end = self._rest.find(CLOSING, start)
            if end < 0 and not is_last:
                break
            end = len(self._rest) if end < 0 else end + len(CLOSING)
            block = self._rest[start:end]
            call = _call(block.removeprefix(OPENING).removesuffix(CLOSING))
            said += self._spoken(self._rest[:start] + ("" if call else block))
            if call:
                calls.append(call)
                self._has_called = True
            self._rest = self._rest[end:]
        cut = start if start >= 0 else len(self._rest) - (
            0 if is_last else _possible_start(self._rest, OPENING))
        said += self._spoken(self._rest[:cut])
        self._rest = self._rest[cut:]
        return said, calls

    def _spoken(self, text: str) -> str:
        """Blanks between calls are no text."""
        return "" if self._has_called and not text.strip() else text


class WholeParser:
    """Takes an answer that begins as a call to be calls as a whole."""

    def __init__(self, beginnings: tuple[str, ...], read: Callable[[str], list[ToolCall]]) -> None:
        self._beginnings = beginnings
        self._read = read
        self._held: str | None = ""

    def push(self, text: str, is_last: bool) -> tuple[str, list[ToolCall]]:
        """See `ToolParser`."""
        if self._held is None:
            return text, []
        self._held += text
        begun = self._held.lstrip()
        may_call = any(begun.startswith(beginning) or beginning.startswith(begun)
                       for beginning in self._beginnings)
        if may_call and not is_last:
            return "", []
        calls = self._read(begun) if may_call else []
        said, self._held = "" if calls else self._held, None
        return said, calls


def _llama3(text: str) -> list[ToolCall]:
    """The calls that `text` consists of; none if it does not."""
    rest, calls = text.removeprefix(LLAMA_MARK).strip(), []
    while rest:
        try:
            value, end = DECODER.raw_decode(rest)
        except (ValueError, RecursionError):
            return []
        calls.append(_from_json(value))
        rest = rest[end:].lstrip().removeprefix(";").lstrip()
    return [call for call in calls if call] if all(calls) else []


def _mistral(text: str) -> list[ToolCall]:
    """The calls in the list that `text` is; none if it is something else."""
    try:
        values = json.loads(text.removeprefix(MISTRAL_MARK))
    except (ValueError, RecursionError):
        return []
    calls = [_from_json(value) for value in values] if isinstance(values, list) else []
    return [call for call in calls if call] if all(calls) else []


PARSERS: dict[str, Callable[[], ToolParser]] = {
    "hermes": HermesParser,
    "llama3": lambda: WholeParser((LLAMA_MARK, "{"), _llama3),
    "mistral": lambda: WholeParser((MISTRAL_MARK, "[{"), _mistral),
}


def _call(text: str) -> ToolCall | None:
    try:
        return _from_json(json.loads(text))
    except (ValueError, RecursionError):
        return None


def _from_json(value: Any) -> ToolCall | None:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", value.get("parameters"))
    if not isinstance(arguments, dict):
        return None
    try:
        call = ToolCall(value["name"], json.dumps(arguments, ensure_ascii=False, allow_nan=False))
        "".join(call).encode()
    except ValueError:  # NaN, or an escape of half a character: no JSON that a client could read
        return None
    return call


def _possible_start(text: str, mark: str) -> int:
    """How many characters at the end of `text` may be the beginning of `mark`."""
    return next((size for size in range(min(len(mark) - 1, len(text)), 0, -1)
                 if mark.startswith(text[-size:])), 0)
