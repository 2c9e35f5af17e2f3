"""The file of requests: a JSON object a line, checked as a whole before the first is sent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from tritonlm.errors import InvalidArgument, ServingError, from_code

MAX_TOLD = 20
"""Wrong lines that an error names; the others are counted."""


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request."""

    custom_id: str
    method: Literal["POST"]
    url: Literal["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings",
                 "/v1/rerank", "/v1/classify"]
    body: dict[str, Any]

    def __post_init__(self) -> None:
        """Raise `ValueError` for what no line can say."""
        if not self.custom_id:
            raise ValueError("custom_id: it must not be empty")
        if self.body.get("stream"):
            raise ValueError("stream: true is not allowed; a line has one answer")


def read_lines(path: Path) -> Iterator[Line]:
    """The requests of a file that `check` has found well."""
    for _, raw in _numbered(path):
        yield _decoded(raw)


def check(path: Path) -> set[str]:
    """The `custom_id` of every line; raises `InvalidArgument` that names each wrong line."""
    places: dict[str, int] = {}
    problems = []
    for number, raw in _numbered(path):
        try:
            custom_id = _decoded(raw).custom_id
        except ServingError as error:
            problems.append(f"line {number}: {error.message}")
            continue
        if custom_id in places:
            problems.append(f"line {number}: custom_id: {custom_id!r} is that of line "
                            f"{places[custom_id]} too")
        places.setdefault(custom_id, number)
    if problems:
        raise from_code("INVALID_ARG", "\n".join([
            f"{path}: {len(problems)} lines are wrong, nothing was sent", *problems[:MAX_TOLD],
            *["..."] * (len(problems) > MAX_TOLD)]))
    if not places:
        raise InvalidArgument("input", str(path), "it has no lines")
    return {*places}


def _numbered(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, with their numbers."""
    try:
        with path.open("rb") as file:
            yield from ((number, raw) for number, raw in enumerate(file, start=1) if raw.strip())
    except OSError as error:
        raise InvalidArgument("input", str(path), error.strerror or str(error)) from None


def _decoded(raw: bytes) -> Line:
    try:
        return msgspec.json.decode(raw, type=Line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise from_code("INVALID_ARG", str(error)) from None
