"""Bodies of requests: JSON objects whose every key is known, or refused by name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec

from tritonlm.errors import InvalidArgument, ServingError, from_code
from tritonlm.options import OPTIONS

T = TypeVar("T", bound=msgspec.Struct)

SET_HERE = frozenset({"stream", "cancel", "request_id", "logprobs", "prompt_logprobs",
                      "exclude_input_in_output"})
PASSED_ON = frozenset(name for name in OPTIONS
                      if name not in SET_HERE and not name.startswith("return_"))
"""Options that clients give under the contract's names; the others, the gateway sets itself."""
PLACE = re.compile(r"(?P<what>.*) - at `\$\.?(?P<place>.*)`", re.DOTALL)
MISSING = re.compile(r"Object missing required field `(?P<name>\w+)`")


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all objects in a request."""


def read_body(raw: bytes, kind: type[T]) -> T:
    """The fields that `kind` knows; null stands for not given.

    Raises `InvalidArgument` that names an unknown key, or one of another type.
    """
    return read_fields(json_object(raw), kind)


def read_fields(given: dict[str, Any], kind: type[T]) -> T:
    """As `read_body`, from a JSON object."""
    return _converted(given, kind, kind.__struct_fields__)


def read_call(given: dict[str, Any], kind: type[T]) -> tuple[T, dict[str, Any]]:
    """The fields that `kind` knows, and the options of generation; else as `read_body`."""
    options = {name: value for name, value in given.items()
               if name in PASSED_ON and name not in kind.__struct_fields__}
    fields = {name: value for name, value in given.items() if name not in options}
    return _converted(fields, kind, (*kind.__struct_fields__, *PASSED_ON)), options


def _converted(given: dict[str, Any], kind: type[T], known: Iterable[str]) -> T:
    for name in given.keys() - set(kind.__struct_fields__):
        raise InvalidArgument(name, given[name],
                              f"unknown or not supported; known: {', '.join(sorted(known))}")
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        raise _named(error) from None


def json_object(raw: bytes | str) -> dict[str, Any]:
    """What is given in a JSON object: its keys but for those that are null."""
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
