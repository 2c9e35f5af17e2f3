"""`/v1/chat/completions`."""

from __future__ import annotations

from typing import Any, ClassVar
from uuid import uuid4

from tritonlm.errors import InvalidArgument
from tritonlm.gateway.body import Body
from tritonlm.gateway.openai.call import ChoicesCall, StreamOptions, merge_max_tokens
from tritonlm.gateway.openai.logprobs import chat_logprobs
from tritonlm.gateway.openai.messages import Message, template_messages
from tritonlm.gateway.openai.response_format import ResponseFormat, constraint, hold
from tritonlm.gateway.openai.tool_parsers import PARSERS
from tritonlm.gateway.openai.tools import Choice, Tool, offered_tools
from tritonlm.gateway.pieces import Piece
from tritonlm_client import Prompt


class ChatBody(Body, frozen=True):
    """What a client sends beside the options of generation."""

    model: str
    messages: list[Message]
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_completion_tokens: int | None = None
    logprobs: bool = False
    top_logprobs: int | None = None
    response_format: ResponseFormat | None = None
    tools: list[Tool] | None = None
    tool_choice: Choice | None = None
    parallel_tool_calls: bool = True
    store: bool = False


class ChatForm:
    """How the answers to a chat are written."""

    id_prefix: ClassVar = "chatcmpl-"
    whole_object: ClassVar = "chat.completion"
    chunk_object: ClassVar = "chat.completion.chunk"

    def __init__(self, has_logprobs: bool, tool_parser: str = "") -> None:
        """With a parser, calls are looked for."""
        self._has_logprobs = has_logprobs
        self._tool_parser = tool_parser
        self._speakers: dict[int, Speaker] = {}

    def chunk_choice(self, index: int, _prompt: int, piece: Piece) -> dict[str, Any]:
        """A choice in an event."""
        delta: dict[str, Any] = {}
        if index not in self._speakers:
            delta["role"] = "assistant"
            self._speakers[index] = Speaker(self._tool_parser)
        content, calls = self._speakers[index].push(piece)
        delta["content"] = content
        if calls:
            delta["tool_calls"] = calls
        return {"index": index, "delta": delta, "logprobs": self._logprobs(piece),
                "finish_reason": self._speakers[index].finish_reason(piece)}

    def whole_choice(self, index: int, _prompt: int, piece: Piece) -> dict[str, Any]:
        """A choice in a whole answer."""
        speaker = Speaker(self._tool_parser)
        content, calls = speaker.push(piece)
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if calls:
            message |= {"content": content or None, "tool_calls": [
                {name: value for name, value in call.items() if name != "index"}
                for call in calls]}
        return {"index": index, "message": message, "logprobs": self._logprobs(piece),
                "finish_reason": speaker.finish_reason(piece)}

    def _logprobs(self, piece: Piece) -> dict[str, Any] | None:
        return chat_logprobs(piece.logprobs) if self._has_logprobs else None


class Speaker:
    """One of a chat's answers, text and calls told apart."""

    def __init__(self, tool_parser: str) -> None:
        self._parser = PARSERS[tool_parser]() if tool_parser else None
        self._num_calls = 0

    def push(self, piece: Piece) -> tuple[str, list[dict[str, Any]]]:
        """Text and calls of the next piece."""
        if self._parser is None:
            return piece.text, []
        text, calls = self._parser.push(piece.text, is_last=bool(piece.finish_reason))
        first, self._num_calls = self._num_calls, self._num_calls + len(calls)
        return text, [{
            "index": index, "id": f"call_{uuid4().hex}", "type": "function",
            "function": call._asdict()} for index, call in enumerate(calls, start=first)]

    def finish_reason(self, piece: Piece) -> str | None:
        """Why the answer is over, if it is."""
        if self._num_calls and piece.finish_reason == "stop":
            return "tool_calls"
        return piece.finish_reason or None


def chat_call(body: ChatBody, options: dict[str, Any], tool_parser: str = "") -> ChoicesCall:
    """What is asked for; raises `InvalidArgument`."""
    if not body.messages:
        raise InvalidArgument("messages", [], "it must not be empty")
    if body.store:
        raise InvalidArgument("store", True, "nothing is kept here; allowed: false")
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidArgument("top_logprobs", body.top_logprobs, "it needs logprobs: true")
    merge_max_tokens(options, "max_completion_tokens", body.max_completion_tokens)
    if body.logprobs:
        options["logprobs"] = body.top_logprobs or 0
    tools, grammar = offered_tools(body.tools or [], body.tool_choice, body.parallel_tool_calls,
                                   tool_parser)
    held = constraint(body.response_format)
    if tools and held:
        raise InvalidArgument("response_format", "with tools", 'it needs tool_choice "none"')
    hold(options, held | ({"guided_grammar": grammar} if grammar else {}))
    messages = template_messages(body.messages)
    prompt: Prompt = {"messages": messages, "tools": tools} if tools else messages
    return ChoicesCall(body.model, (prompt,), options, body.stream, _names(body),
                       ChatForm(body.logprobs, tool_parser if tools else ""), body.stream_options)


def _names(body: ChatBody) -> dict[str, str]:
    """What the fields are called that say something under a name of the contract."""
    given = {"prompt": ("messages", True),
             "max_tokens": ("max_completion_tokens", body.max_completion_tokens is not None),
             "logprobs": ("top_logprobs", body.top_logprobs is not None),
             "guided_json": ("response_format", body.response_format is not None),
             "guided_grammar": ("tools", bool(body.tools))}
    return {name: here for name, (here, is_given) in given.items() if is_given}
