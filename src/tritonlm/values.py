"""Single values of a request in their types; texts are taken if they parse exactly.

Each function raises `InvalidArgument` that names the field and what is allowed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from tritonlm.errors import InvalidArgument

WORDS = {"true": True, "false": False}


def text_value(name: str, value: Any, allowed: str = "") -> str:
    """A text, which bytes are in UTF-8."""
    if not isinstance(value, str | bytes):
        raise InvalidArgument(name, value, _needed("text", allowed))
    try:
        if isinstance(value, bytes):
            return value.decode()
        value.encode()  # JSON's escapes can say half a character, which no message can carry
        return value
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        place = "byte" if isinstance(value, bytes) else "character"
        needed = f"UTF-8: {error.reason} at {place} {error.start}"
        raise InvalidArgument(name, value, _needed(needed, allowed)) from None


def bool_value(name: str, value: Any, allowed: str) -> bool:
    """True or false, in any case if it is a text."""
    if isinstance(value, bool):
        return value
    word = text_value(name, value).lower() if isinstance(value, str | bytes) else ""
    if word not in WORDS:
        raise InvalidArgument(name, value, f"allowed: {allowed}")
    return WORDS[word]


def int_value(name: str, value: Any, allowed: str) -> int:
    """A whole number, of any size."""
    try:
        number = int(_number_text(name, value)) if isinstance(value, str | bytes) else value
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        if is_number and number == int(number):
            return int(number)
    except (ValueError, OverflowError):
        pass
    raise InvalidArgument(name, value, _needed("a whole number", allowed))


def float_value(name: str, value: Any, allowed: str) -> float:
    """A finite number."""
    try:
        number = _number_text(name, value) if isinstance(value, str | bytes) else value
        if not isinstance(number, bool) and math.isfinite(float(number)):
            return float(number)
    except (TypeError, ValueError, OverflowError):
        pass
    raise InvalidArgument(name, value, _needed("a finite number", allowed))


def bias_value(name: str, value: Any, allowed: str) -> tuple[tuple[int, float], ...]:
    """(token id, bias) pairs of a map, or of the JSON object that a text is."""
    try:
        biases = json.loads(value) if isinstance(value, str | bytes) else value
    except (ValueError, RecursionError):
        biases = None
    if not isinstance(biases, Mapping):
        raise InvalidArgument(name, value, f"allowed: {allowed}")
    return tuple({int_value(name, token_id, allowed): float_value(name, bias, allowed)
                  for token_id, bias in biases.items()}.items())


def schema_value(name: str, value: Any, allowed: str) -> str:
    """The text of a JSON schema, which is given as such or as what it says; "" for none."""
    if value in ("", b""):
        return ""
    try:
        schema = json.loads(value) if isinstance(value, str | bytes) else value
        if isinstance(schema, Mapping):
            return text_value(name, json.dumps(schema, ensure_ascii=False, allow_nan=False))
    except (ValueError, TypeError, RecursionError):
        pass
    raise InvalidArgument(name, value, f"allowed: {allowed}")


def _number_text(name: str, value: str | bytes) -> str:
    """`value` if it is a number alone: Python reads `1_000`, spaces and other digits too."""
    text = text_value(name, value)
    if "_" in text or not text.isascii() or text != text.strip():
        raise ValueError(text)
    return text


def _needed(kind: str, allowed: str) -> str:
    return f"it must be {kind}; allowed: {allowed}" if allowed else f"it must be {kind}"
