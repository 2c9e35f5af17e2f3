"""Grammars in which an answer calls functions, in the formats that `tool_parsers` reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from tritonlm.options import JSON_WHITESPACE

NO_ARGUMENTS = {"type": "object", "additionalProperties": False}
WHITESPACE = {"x-guidance": {"whitespace_pattern": JSON_WHITESPACE}}


class CallFormat(NamedTuple):
    """How calls are written: what stands around all of them, around each, and between two."""

    first: str = ""
    before: str = ""
    arguments: str = "arguments"
    after: str = ""
    between: str = ""
    last: str = ""


FORMATS = {
    "hermes": CallFormat(before="<tool_call>\n", after="\n</tool_call>", between="\n"),
    "llama3": CallFormat(arguments="parameters", between="; "),
    "mistral": CallFormat(first="[", between=", ", last="]"),
}


def tool_grammar(
    parser: str, functions: Mapping[str, dict[str, Any] | None], is_parallel: bool
) -> str:
    """A grammar of calls of `functions`, of several if `is_parallel`.

    They are named, each with the JSON schema of its arguments, or None if it has none.
    """
    form = FORMATS[parser]
    more = f" ({_literal(form.between)} call)*" if is_parallel else ""
    lines = [
        f"start: {_literal(form.first)} call{more} {_literal(form.last)}",
        f"call: {_literal(form.before)} function {_literal(form.after)}",
        "function: " + " | ".join(f"f{place}" for place in range(len(functions)))]
    for place, (name, schema) in enumerate(functions.items()):
        head = f'{{"name": {json.dumps(name, ensure_ascii=False)}, "{form.arguments}": '
        # Each schema is a document of its own, as what it refers to is.
        arguments = WHITESPACE | (NO_ARGUMENTS if schema is None else schema)
        lines += [f'f{place}: {_literal(head)} a{place} "}}"',
                  f"a{place}: %json {json.dumps(arguments)}"]
    return "\n".join(lines)


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
