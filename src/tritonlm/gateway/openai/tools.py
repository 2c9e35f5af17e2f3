"""What a model may call, or has to, as clients say it."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import msgspec

from tritonlm.errors import InvalidArgument
from tritonlm.gateway.body import Body
from tritonlm.gateway.openai.tool_grammar import tool_grammar
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


class NamedFunction(Body, frozen=True):
    """One of the functions."""

    name: str


class NamedTool(Body, frozen=True):
    """The tool that an answer has to call."""

    function: NamedFunction
    type: Literal["function"]


Choice = Literal["auto", "none", "required"] | NamedTool


class Offer(NamedTuple):
    """What a model is told of tools, and held to."""

    tools: list[dict[str, Any]]
    """As a chat template takes them; none if the model is not to call any."""
    grammar: str = ""
    """What an answer that has to call is held to."""


def offered_tools(
    tools: list[Tool], choice: Choice | None, is_parallel: bool, parser: str
) -> Offer:
    """What is to be called; raises `InvalidArgument` for what cannot be had."""
    if choice is not None and not tools:
        raise InvalidArgument("tool_choice", _shown(choice), "it needs tools")
    is_free = choice in {None, "auto", "none"}
    if is_free and not is_parallel:
        raise InvalidArgument("parallel_tool_calls", False, "not supported; allowed: true, or "
                              'false with tool_choice "required" or a function')
    if is_free and any(tool.function.strict for tool in tools):
        raise InvalidArgument("tools", "strict: true", "not supported; allowed: false, or true "
                              'with tool_choice "required" or a function')
    if choice == "none" or not tools:
        return Offer([])
    if not parser:
        raise InvalidArgument("tools", tools[0].function.name, "this gateway knows no format of "
                              f"calls: start it with --tool-parser, one of {', '.join(PARSERS)}")
    _check_names([tool.function.name for tool in tools])
    told = [_told(tool) for tool in tools]
    return Offer(told) if is_free else Offer(told, _grammar(tools, choice, is_parallel, parser))


def _check_names(names: list[str]) -> None:
    """A call says whom it is for by the name alone."""
    taken = {""}
    for name in names:
        if name in taken:
            raise InvalidArgument("tools", name, "each function needs a name of its own")
        taken.add(name)


def _grammar(tools: list[Tool], choice: Any, is_parallel: bool, parser: str) -> str:
    """That of the functions that `choice` leaves; a function that it names is called once."""
    functions = {tool.function.name: _arguments(tool.function) for tool in tools}
    if isinstance(choice, NamedTool):
        name = choice.function.name
        if name not in functions:
            raise InvalidArgument("tool_choice", name, f"allowed: {', '.join(functions)}")
        functions, is_parallel = {name: functions[name]}, False
    return tool_grammar(parser, functions, is_parallel)


def _arguments(function: Function) -> dict[str, Any] | None:
    """The schema of arguments; they are an object."""
    schema = function.parameters
    if schema is not None and schema.get("type", "object") != "object":
        raise InvalidArgument("tools", schema["type"], f"parameters of {function.name} must be of "
                              'the type "object"')
    return None if schema is None else {"type": "object"} | schema


def _shown(choice: Choice) -> str:
    return choice if isinstance(choice, str) else choice.function.name


def _told(tool: Tool) -> dict[str, Any]:
    """Templates write what is in here, so what was not given is left out."""
    function = {name: value for name, value in msgspec.structs.asdict(tool.function).items()
                if value is not None and name != "strict"}
    return {"type": "function", "function": function}
