"""Bodies of requests: JSON objects whose every key is known, or refused by name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec

from tritonlm.errors import InvalidArgument, ServingError, from_code
from tritonlm.options import OPTIONS

T = TypeVar("T", bound=msgspec.Struct)

PASSED_ON = frozenset(OPTIONS) - {"stream", "cancel", "request_id", "logprobs", "prompt_logprobs",
                                  "exclude_input_in_output", "return_num_input_tokens",
                                  "return_num_output_tokens", "return_finish_reason"}
"""Options that clients give under the contract's names; the others, the gateway sets itself."""
PLACE = re.compile(r"(?P<what>.*) - at `\$\.?(?P<place>.*)`", re.DOTALL)
MISSING = re.compile(r"Object missing required field `(?P<name>\w+)`")


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all objects in a request."""


def read_body(raw: bytes, kind: type[T]) -> T:
    """The fields that `kind` knows; null stands for not given.

    Raises `InvalidArgument` that names an unknown key, or one of another type.
    """
    return _converted(_json_object(raw), kind, kind.__struct_fields__)


def read_call(raw: bytes, kind: type[T]) -> tuple[T, dict[str, Any]]:
    """The fields that `kind` knows, and the options of generation; else as `read_body`."""
    given = _json_object(raw)
    options = {name: given.pop(name) for name in tuple(given)
               if name in PASSED_ON and name not in kind.__struct_fields__}
    return _converted(given, kind, (*kind.__struct_fields__, *PASSED_ON)), options


def _converted(given: dict[str, Any], kind: type[T], known: Iterable[str]) -> T:
    for name in given.keys() - set(kind.__struct_fields__):
        raise InvalidArgument(name, given[name],
                              f"unknown or not supported; known: {', '.join(sorted(known))}")
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        raise _named(error) from None


def _json_object(raw: bytes) -> dict[str, Any]:
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise from_code("INVALID_ARG", f"body: it is no JSON: {error}") from None
    if not isinstance(body, dict):
        raise InvalidArgument("body", body, "it must be a JSON object")
    return {name: value for name, value in body.items() if value is not None}


def _named(error: msgspec.ValidationError) -> ServingError:
    """The error with the name of its field in front."""
    missing = MISSING.match(str(error))
    if missing:
        return from_code("INVALID_ARG", f"{missing['name']}: it must be given; {error}")
    place = PLACE.fullmatch(str(error))
    name, what = (place["place"], place["what"]) if place else ("body", str(error))
    return from_code("INVALID_ARG", f"{name}: {what}")
