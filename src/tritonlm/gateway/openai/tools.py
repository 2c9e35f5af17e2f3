"""What a model may call, as clients say it."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from tritonlm.errors import InvalidArgument
from tritonlm.gateway.body import Body
from tritonlm.gateway.openai.tool_parsers import PARSERS


class Function(Body, frozen=True):
    """A function that a model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """A JSON schema."""
    strict: bool | None = None


class Tool(Body, frozen=True):
    """A tool; a function is the only kind."""

    function: Function
    type: Literal["function"]


def offered_tools(
    tools: list[Tool], choice: Any, is_parallel: bool, parser: str
) -> list[dict[str, Any]]:
    """The tools as a chat template takes them; none if the model is not to call any.

    Raises `InvalidArgument` for what an answer cannot be held to, and without a parser.
    """
    if choice not in {"auto", "none"} if isinstance(choice, str) else choice is not None:
        raise InvalidArgument("tool_choice", choice, 'not supported; allowed: "auto", "none"')
    if choice is not None and not tools:
        raise InvalidArgument("tool_choice", choice, "it needs tools")
    if not is_parallel:
        raise InvalidArgument("parallel_tool_calls", False, "not supported; allowed: true")
    if any(tool.function.strict for tool in tools):
        raise InvalidArgument("tools", "strict: true", "not supported; allowed: false")
    if choice == "none" or not tools:
        return []
    if not parser:
        raise InvalidArgument("tools", tools[0].function.name, "this gateway knows no format of "
                              f"calls: start it with --tool-parser, one of {', '.join(PARSERS)}")
    return [_told(tool) for tool in tools]


def _told(tool: Tool) -> dict[str, Any]:
    """Templates write what is in here, so what was not given is left out."""
    function = {name: value for name, value in msgspec.structs.asdict(tool.function).items()
                if value is not None and name != "strict"}
    return {"type": "function", "function": function}
