"""What the text of an answer must look like."""

from __future__ import annotations

from typing import Any, Literal

from tritonlm.errors import InvalidArgument
from tritonlm.gateway.body import Body

ANY_OBJECT = {"type": "object"}


class AnswerSchema(Body, frozen=True):
    """A JSON schema, which an answer satisfies whether that is `strict` or not."""

    name: str
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class ResponseFormat(Body, frozen=True):
    """A form of answers."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: AnswerSchema | None = None


def constraint(response_format: ResponseFormat | None) -> dict[str, Any]:
    """The options of generation that hold an answer to `response_format`.

    Raises `InvalidArgument` for a format that has a schema and needs none, or the reverse.
    """
    if response_format is None:
        return {}
    kind, schema = response_format.type, response_format.json_schema
    if (kind == "json_schema") != (schema is not None):
        raise InvalidArgument("response_format", kind, "json_schema, and it alone, needs a "
                              '"json_schema" of "name" and "schema"')
    if kind == "text":
        return {}
    return {"guided_json": schema.schema if schema and schema.schema is not None else ANY_OBJECT}


def hold(options: dict[str, Any], held: dict[str, Any]) -> None:
    """Add `held`, by which an answer is held, to `options`; raises `InvalidArgument` for two."""
    for name in held.keys() & options.keys():
        raise InvalidArgument(name, options[name], "response_format or tool_choice says it already")
    options |= held
