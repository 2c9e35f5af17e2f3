"""Requests under the contract's own names, as `/generate_stream` and `/ws` take them."""

from __future__ import annotations

from typing import Any

import msgspec
from tritonclient.grpc.service_pb2 import ModelInferRequest

from tritonlm.errors import InvalidArgument
from tritonlm.gateway.body import Body
from tritonlm.gateway.events import encoded
from tritonlm.gateway.openai.messages import Message, template_messages
from tritonlm.gateway.pieces import Piece, ask_for_pieces
from tritonlm.gateway.usage import Usage
from tritonlm_client import Prompt
from tritonlm_client.requests import text_request

OWN_OPTIONS = ("logprobs", "prompt_logprobs", "exclude_input_in_output")


class GenerateBody(Body, frozen=True):
    """A prompt of one kind, beside the options of generation."""

    model: str = "generate"
    text_input: str | None = None
    messages: list[Message] | None = None
    input_ids: list[int] | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    exclude_input_in_output: bool = True


def streamed_request(
    body: GenerateBody, options: dict[str, Any], model: str
) -> ModelInferRequest:
    """The request to `model` that is answered in pieces; raises `InvalidArgument`."""
    given = options | {name: getattr(body, name) for name in OWN_OPTIONS}
    request = text_request(model, _prompt(body), given, True).as_protobuf()
    with_logprobs = not (body.logprobs is None and body.prompt_logprobs is None)
    ask_for_pieces(request, options.get("n", 1) != 1, with_logprobs)
    return request


def told_piece(piece: Piece) -> dict[str, Any]:
    """A piece under the contract's names."""
    told: dict[str, Any] = {
        "text_output": piece.text, "finish_reason": piece.finish_reason,
        "num_input_tokens": piece.num_input_tokens, "num_output_tokens": piece.num_output_tokens,
        "sequence_index": piece.sequence_index}
    if piece.logprobs:
        told["logprobs"] = msgspec.Raw(piece.logprobs.encode())
    return told


class GenerateScript:
    """The events of `/generate_stream`: one for each piece, and none after them."""

    def __init__(self, usage: Usage) -> None:
        """`usage` counts the tokens."""
        self._usage = usage

    def events(self, prompt: int, piece: Piece) -> list[bytes]:
        """The piece as JSON."""
        self._usage.count(prompt, piece)
        return [encoded(told_piece(piece))]

    def closing(self) -> list[bytes]:
        """The last piece of each sequence has its finish_reason; there is no more to say."""
        return []


def _prompt(body: GenerateBody) -> Prompt:
    given = {"text_input": body.text_input, "messages": body.messages,
             "input_ids": body.input_ids}
    names = [name for name, value in given.items() if value is not None]
    if len(names) != 1:
        raise InvalidArgument("prompt", " and ".join(names) or "nothing",
                              f"give exactly one of {', '.join(given)}")
    if body.messages is not None:
        return template_messages(body.messages)
    return body.text_input if body.text_input is not None else body.input_ids or []
