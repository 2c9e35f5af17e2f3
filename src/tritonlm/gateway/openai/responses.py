"""`/v1/responses`: text in, text out; nothing is stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from tritonlm.errors import InvalidArgument
from tritonlm.gateway.body import Body
from tritonlm.gateway.openai.call import Call, Writer, merge_max_tokens
from tritonlm.gateway.openai.messages import ROLES
from tritonlm.gateway.openai.response_format import AnswerSchema, ResponseFormat, constraint, hold
from tritonlm.gateway.openai.response_writer import ResponseWriter


class InputText(Body, frozen=True):
    """A part of a message; a text is the only kind."""

    text: str
    type: Literal["input_text", "output_text"]
    # Parts of an answer of ours, which clients send back as it was.
    annotations: list[None] | None = None
    logprobs: list[None] | None = None
    parsed: Any = None
    """The text, as OpenAI's SDK has parsed it; it sends both back."""


class InputMessage(Body, frozen=True):
    """A message, of a client's or of ours."""

    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[InputText]
    type: Literal["message"] = "message"
    id: str | None = None
    status: str | None = None
    phase: None = None


class TextFormat(Body, frozen=True):
    """A form of answers, whose schema is not in an object of its own."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class TextConfig(Body, frozen=True):
    """What the text of an answer is like."""

    format: TextFormat = TextFormat()


class ResponsesBody(Body, frozen=True):
    """What a client sends beside the options of generation."""

    model: str
    input: str | list[InputMessage]
    instructions: str | None = None
    max_output_tokens: int | None = None
    text: TextConfig = TextConfig()
    stream: bool = False
    metadata: dict[str, str] | None = None
    store: bool = False
    background: bool = False
    truncation: Literal["disabled"] = "disabled"


@dataclass(frozen=True)
class ResponsesCall(Call):
    """A call whose answer is a response."""

    told: dict[str, Any]
    """What a response says of the call."""

    def writer(self) -> Writer:
        """See `Call`."""
        return ResponseWriter(self.told)


def responses_call(body: ResponsesBody, options: dict[str, Any]) -> ResponsesCall:
    """What is asked for; raises `InvalidArgument`."""
    if not body.input:
        raise InvalidArgument("input", body.input, "it must not be empty")
    for name in ("store", "background"):
        if getattr(body, name):
            raise InvalidArgument(name, True, "nothing is kept here; allowed: false")
    if options.get("n", 1) != 1:
        raise InvalidArgument("n", options["n"], "a response is one answer; allowed: 1")
    merge_max_tokens(options, "max_output_tokens", body.max_output_tokens)
    hold(options, constraint(_response_format(body.text.format)))
    told = {
        "model": body.model, "instructions": body.instructions, "metadata": body.metadata or {},
        "max_output_tokens": options.get("max_tokens"), "text": {"format": _shown(body.text)},
        "temperature": options.get("temperature", 1.0), "top_p": options.get("top_p", 1.0),
        "store": False, "background": False, "truncation": body.truncation, "tools": [],
        "tool_choice": "none", "parallel_tool_calls": False}
    names = {"prompt": "input", "messages": "input"}
    if body.max_output_tokens is not None:
        names["max_tokens"] = "max_output_tokens"
    if body.text.format.type != "text":
        names["guided_json"] = "text.format"
    return ResponsesCall(body.model, (_messages(body),), options, body.stream, names, told)


def _messages(body: ResponsesBody) -> list[dict[str, str]]:
    """The instructions and the input as a chat template takes them."""
    given = [InputMessage(role="user", content=body.input)] if isinstance(
        body.input, str) else body.input
    first = [{"role": "system", "content": body.instructions}] if body.instructions else []
    return first + [{"role": ROLES.get(message.role, message.role),
                     "content": _text(message.content)} for message in given]


def _text(content: str | list[InputText]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


def _response_format(form: TextFormat) -> ResponseFormat:
    """As chats have it."""
    if form.type != "json_schema":
        return ResponseFormat(type=form.type)
    if form.name is None or form.schema is None:
        raise InvalidArgument("text.format", form.type, 'it needs "name" and "schema"')
    return ResponseFormat(type=form.type, json_schema=AnswerSchema(
        name=form.name, description=form.description, schema=form.schema, strict=form.strict))


def _shown(text: TextConfig) -> dict[str, Any]:
    return {name: value for name, value in msgspec.structs.asdict(text.format).items()
            if value is not None}
