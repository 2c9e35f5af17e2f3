"""`/v1/chat/completions`."""

from __future__ import annotations

from typing import Any, ClassVar

from tritonlm.errors import InvalidArgument
from tritonlm.gateway.body import Body
from tritonlm.gateway.openai.call import Call, StreamOptions, merge_max_tokens
from tritonlm.gateway.openai.logprobs import chat_logprobs
from tritonlm.gateway.openai.messages import Message, template_messages
from tritonlm.gateway.openai.response_format import constraint
from tritonlm.gateway.pieces import Piece


class ChatBody(Body, frozen=True):
    """What a client sends beside the options of generation."""

    model: str
    messages: list[Message]
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_completion_tokens: int | None = None
    logprobs: bool = False
    top_logprobs: int | None = None
    response_format: dict[str, Any] | None = None


class ChatForm:
    """How the answers to a chat are written."""

    id_prefix: ClassVar = "chatcmpl-"
    whole_object: ClassVar = "chat.completion"
    chunk_object: ClassVar = "chat.completion.chunk"

    def __init__(self, has_logprobs: bool) -> None:
        self._has_logprobs = has_logprobs
        self._begun: set[int] = set()

    def chunk_choice(self, index: int, _prompt: int, piece: Piece) -> dict[str, Any]:
        """A choice in an event."""
        delta: dict[str, str] = {"content": piece.text}
        if index not in self._begun:
            self._begun.add(index)
            delta = {"role": "assistant", "content": piece.text}
        return {"index": index, "delta": delta, "logprobs": self._logprobs(piece),
                "finish_reason": piece.finish_reason or None}

    def whole_choice(self, index: int, _prompt: int, piece: Piece) -> dict[str, Any]:
        """A choice in a whole answer."""
        message = {"role": "assistant", "content": piece.text, "refusal": None}
        return {"index": index, "message": message, "logprobs": self._logprobs(piece),
                "finish_reason": piece.finish_reason}

    def _logprobs(self, piece: Piece) -> dict[str, Any] | None:
        return chat_logprobs(piece.logprobs) if self._has_logprobs else None


def chat_call(body: ChatBody, options: dict[str, Any]) -> Call:
    """What is asked for; raises `InvalidArgument`."""
    if not body.messages:
        raise InvalidArgument("messages", [], "it must not be empty")
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidArgument("top_logprobs", body.top_logprobs, "it needs logprobs: true")
    options |= constraint(body.response_format)
    merge_max_tokens(options, body.max_completion_tokens)
    if body.logprobs:
        options["logprobs"] = body.top_logprobs or 0
    return Call(body.model, (template_messages(body.messages),), options, ChatForm(body.logprobs),
                body.stream, body.stream_options)
