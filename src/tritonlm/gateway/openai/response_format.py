"""What the text of an answer must look like."""

from __future__ import annotations

from typing import Any

from tritonlm.errors import InvalidArgument


def constraint(response_format: dict[str, Any] | None) -> dict[str, Any]:
    """The options of generation that hold an answer to `response_format`.

    Raises `InvalidArgument` for a format that the models cannot be held to: all but text.
    """
    if response_format is not None and response_format != {"type": "text"}:
        raise InvalidArgument("response_format", response_format,
                              'not supported; allowed: {"type": "text"}')
    return {}
