"""Messages of a chat, as clients send them and as chat templates take them."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from tritonlm.errors import InvalidArgument
from tritonlm.gateway.body import Body

ROLES = {"developer": "system"}
"""By the names that templates know them by, where those differ."""


class TextPart(Body, frozen=True):
    """A part of a message's content; a text is the only kind that the models take."""

    text: str
    type: Literal["text"]


class FunctionCall(Body, frozen=True):
    """What an answer has called."""

    name: str
    arguments: str
    """JSON."""
    parsed_arguments: Any = None
    """The same, as OpenAI's SDK has parsed it; it sends both back."""


class SentToolCall(Body, frozen=True):
    """A call in an answer of ours, which a client sends back."""

    id: str
    function: FunctionCall
    type: Literal["function"] = "function"
    index: int | None = None


class Message(Body, frozen=True):
    """A message of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[SentToolCall] | None = None
    tool_call_id: str | None = None
    # Parts of an answer of ours, which clients send back as it was.
    refusal: None = None
    annotations: None = None
    audio: None = None
    function_call: None = None
    parsed: Any = None
    """The content, as OpenAI's SDK has parsed it; it sends both back."""


def template_messages(messages: list[Message]) -> list[dict[str, Any]]:
    """The messages as a chat template takes them: contents are texts."""
    return [_template_message(message) for message in messages]


def _template_message(message: Message) -> dict[str, Any]:
    content = message.content or ""
    if not isinstance(content, str):
        content = "".join(part.text for part in content)
    given = {
        "role": ROLES.get(message.role, message.role), "content": content, "name": message.name,
        "tool_call_id": message.tool_call_id,
        "tool_calls": [_template_call(call) for call in message.tool_calls or ()] or None}
    return {name: value for name, value in given.items() if value is not None}


def _template_call(call: SentToolCall) -> dict[str, Any]:
    """Templates write the arguments themselves, so they get them parsed."""
    try:
        arguments = msgspec.json.decode(call.function.arguments or "{}")
    except msgspec.DecodeError:
        raise InvalidArgument("messages", call.function.arguments,
                              "arguments of a tool call must be JSON") from None
    return {"id": call.id, "type": "function",
            "function": {"name": call.function.name, "arguments": arguments}}
