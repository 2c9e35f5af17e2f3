"""Log probabilities from the form of docs/options.md to the two that OpenAI has."""

from __future__ import annotations

import codecs
from typing import Any

import msgspec


def token_entries(told: str) -> tuple[list[Any], list[Any]]:
    """The entries of the prompt, whose first one is None, and of the output in a piece."""
    if not told:
        return [], []
    parsed = msgspec.json.decode(told)
    # A token that was not measured, since the request ended with it, is not told of.
    content = [entry for entry in parsed["content"] if entry is not None]
    prompt = parsed.get("prompt", [])
    return [] if None in prompt[1:] else prompt, content


def chat_logprobs(told: str) -> dict[str, Any]:
    """As chat completions have them."""
    return {"content": [_without_id(entry) for entry in token_entries(told)[1]],
            "refusal": None}


class CompletionLogprobs:
    """As completions have them, for one sequence after piece."""

    def __init__(self, num_alternatives: int, prompt: str | None, echoed: list[Any]) -> None:
        """`prompt` is what the sequence begins with, if it is echoed; None if that is not known.

        `echoed` is shared by the sequences of a prompt: servers measure it for the first of them.
        """
        self._num_alternatives = num_alternatives
        self._prompt = prompt
        self._echoed = echoed
        self._has_begun = False
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._offset = 0

    def read(self, told: str, text: str) -> dict[str, Any]:
        """What a piece of that `text` tells; offsets count the characters of the sequence."""
        measured, content = token_entries(told)
        self._echoed += measured
        prompt = measured if self._has_begun else self._echoed
        self._has_begun = True
        entries = [*prompt, *content]
        known = [entry or self._first_token(prompt[1:], content, text) for entry in entries]
        return {
            "tokens": [entry["token"] for entry in known],
            "token_logprobs": [entry["logprob"] for entry in known],
            "top_logprobs": [self._alternatives(entry) for entry in entries],
            "text_offset": [self._pass(entry) for entry in known],
        }

    def _first_token(self, others: list[Any], content: list[Any], text: str) -> dict[str, Any]:
        """The prompt's first token: before it there is nothing that makes it likely."""
        rest, said = _bytes_of(others), text.encode()
        if self._prompt is not None:
            said = self._prompt.encode()
            first = said[: max(0, len(said) - len(rest))]
        elif others:
            first = said[: max(0, said.find(rest))]
        else:
            first = said.removesuffix(_bytes_of(content))
        return {"token": first.decode(errors="replace"), "logprob": None, "bytes": first}

    def _alternatives(self, entry: dict[str, Any] | None) -> dict[str, float] | None:
        if entry is None or not self._num_alternatives:
            return None
        return {each["token"]: each["logprob"] for each in (*entry["top_logprobs"], entry)}

    def _pass(self, entry: dict[str, Any]) -> int:
        offset = self._offset
        self._offset += len(self._decoder.decode(bytes(entry["bytes"])))
        return offset


def _bytes_of(entries: list[Any]) -> bytes:
    return b"".join([bytes(entry["bytes"]) for entry in entries])


def _without_id(entry: dict[str, Any]) -> dict[str, Any]:
    return {
        "token": entry["token"], "logprob": entry["logprob"], "bytes": entry["bytes"],
        "top_logprobs": [_without_id(each) | {"top_logprobs": None}
                         for each in entry.get("top_logprobs", ())],
    }
