"""A call of OpenAI's API from its prompts to its answer, whatever the answer's form."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import Response
from tritonclient.grpc.service_pb2 import ModelInferRequest

from tritonlm.errors import InvalidArgument
from tritonlm.gateway.answers import Answers
from tritonlm.gateway.body import Body
from tritonlm.gateway.cached_answers import CachedAnswers, open_answers, tell_outcome
from tritonlm.gateway.connected import while_connected
from tritonlm.gateway.events import Script, encoded, open_events
from tritonlm.gateway.failures import renamed
from tritonlm.gateway.fleet import Fleet
from tritonlm.gateway.pieces import Piece, ask_for_pieces
from tritonlm.gateway.usage import Usage
from tritonlm_client import Prompt
from tritonlm_client.requests import text_request

DONE = b"[DONE]"


class StreamOptions(Body, frozen=True):
    """What a stream has beside its pieces."""

    include_usage: bool = False


class Form(Protocol):
    """How answers are written."""

    id_prefix: ClassVar[str]
    whole_object: ClassVar[str]
    chunk_object: ClassVar[str]

    def chunk_choice(self, index: int, prompt: int, piece: Piece) -> dict[str, Any]:
        """A choice in an event: number `index`, the next piece for number `prompt`."""

    def whole_choice(self, index: int, prompt: int, piece: Piece) -> dict[str, Any]:
        """A choice in a whole answer."""


class Writer(Script, Protocol):
    """Writes the answers of one call, in events or as a whole."""

    usage: Usage

    async def whole(self, answers: Answers | CachedAnswers) -> bytes:
        """The body that tells of all answers; raises `ServingError`."""


@dataclass(frozen=True)
class Call(ABC):
    """What is asked for, and of which model."""

    model: str
    prompts: tuple[Prompt, ...]
    options: dict[str, Any]
    is_stream: bool
    names: Mapping[str, str]
    """Names that fields have here, by those of the contract."""

    @abstractmethod
    def writer(self) -> Writer:
        """What writes the answers."""

    def requests(self, model: str) -> list[ModelInferRequest]:
        """One for each prompt, to `model`; raises `InvalidArgument`."""
        return [self._request(model, prompt) for prompt in self.prompts]

    def _request(self, model: str, prompt: Prompt) -> ModelInferRequest:
        request = text_request(model, prompt, self.options, self.is_stream).as_protobuf()
        ask_for_pieces(request, self.num_sequences > 1, "logprobs" in self.options)
        return request

    @property
    def num_sequences(self) -> int:
        """Sequences of each prompt; a value that is no number is refused elsewhere."""
        return int(self.options.get("n", 1))


@dataclass(frozen=True)
class ChoicesCall(Call):
    """A call whose answers are choices in some form."""

    form: Form
    stream_options: StreamOptions | None

    def __post_init__(self) -> None:
        """Raise `InvalidArgument` for options of a stream that is none."""
        if self.stream_options is not None and not self.is_stream:
            raise InvalidArgument("stream_options", "given", "it needs stream: true")

    def writer(self) -> Writer:
        """See `Call`."""
        return ChoicesWriter(self)


class ChoicesWriter:
    """Writes choices; see `Writer`."""

    def __init__(self, call: ChoicesCall) -> None:
        self._call = call
        self.usage = Usage()
        self._head = {"id": call.form.id_prefix + uuid4().hex, "object": call.form.chunk_object,
                      "created": int(time.time()), "model": call.model}
        self._tells_usage = bool(call.stream_options and call.stream_options.include_usage)

    def events(self, prompt: int, piece: Piece) -> list[bytes]:
        """Data of the events that tell of `piece`."""
        self.usage.count(prompt, piece)
        choice = self._call.form.chunk_choice(self._index(prompt, piece), prompt, piece)
        event = {**self._head, "choices": [choice]}
        if self._tells_usage:
            event["usage"] = None
        return [encoded(event)]

    def closing(self) -> list[bytes]:
        """Data of the events after the last piece."""
        last = {**self._head, "choices": [], "usage": self.usage.as_json()}
        return [encoded(last), DONE] if self._tells_usage else [DONE]

    async def whole(self, answers: Answers | CachedAnswers) -> bytes:
        """The body that tells of all answers; raises `ServingError`."""
        choices: dict[int, dict[str, Any]] = {}
        async for pieces in answers:
            for prompt, piece in pieces:
                self.usage.count(prompt, piece)
                index = self._index(prompt, piece)
                choices[index] = self._call.form.whole_choice(index, prompt, piece)
        return encoded({**self._head, "object": self._call.form.whole_object,
                        "choices": [choices[index] for index in sorted(choices)],
                        "usage": self.usage.as_json()})

    def _index(self, prompt: int, piece: Piece) -> int:
        return prompt * self._call.num_sequences + piece.sequence_index


async def answer(request: Request, fleet: Fleet, call: Call) -> Response:
    """The response to `call`; raises `ServingError` if it fails before its first piece."""
    writer = call.writer()
    request.state.record.model = call.model
    request.state.record.usage = writer.usage
    with renamed(call.names):
        answers = open_answers(request, fleet, call.requests(fleet.resolve(call.model)),
                               str(call.options.get("priority", "")))
        if call.is_stream:
            response: Response = await open_events(request, answers, writer)
        else:
            with answers:
                body = await while_connected(request.receive, writer.whole(answers))
            response = Response(body, media_type="application/json")
    tell_outcome(request, response, answers)
    return response


def merge_max_tokens(options: dict[str, Any], name: str, value: int | None) -> None:
    """Take a newer `name` of `max_tokens`; raises `InvalidArgument` if both differ."""
    if value is not None and options.setdefault("max_tokens", value) != value:
        raise InvalidArgument(name, value, f"max_tokens says {options['max_tokens']}; "
                              "give one of them")
