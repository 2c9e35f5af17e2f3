"""The answers to the prompts of one call of the gateway's, as they come."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Protocol

from tritonclient.grpc.service_pb2 import ModelInferRequest

from tritonlm.errors import ServingError
from tritonlm.gateway.leased_stream import LeasedStream
from tritonlm.gateway.pieces import Piece, PieceReader
from tritonlm.gateway.stream import Outcome, TritonStream


class Route(Protocol):
    """Where the requests of a call go."""

    @property
    def stream(self) -> TritonStream | LeasedStream:
        """The stream to send them on."""

    def begun(self, after_s: float) -> None:
        """Their first piece has come."""

    def failed(self, error: ServingError) -> bool:
        """They have failed; whether `stream` now is another server's."""


class Answers:
    """Iterate over it once: each step gives all (prompt, piece) that have come since the last.

    So a reader that is behind gets the tokens of several steps at once. Whatever is not over when
    the `with` block ends is cancelled at the server.
    """

    def __init__(self, route: Route, requests: Sequence[ModelInferRequest]) -> None:
        """Send `requests`, one for each prompt, where `route` leads."""
        self._route = route
        self._requests = requests
        self._inbox: deque[tuple[int, Outcome]] = deque()
        self._has_mail = asyncio.Event()
        self._has_begun = False
        self._is_cancelled = False
        self._given_up: ServingError | None = None
        self._submit()

    def __aiter__(self) -> Answers:
        return self

    async def __anext__(self) -> list[tuple[int, Piece]]:
        """At least one piece; raises `ServingError` if one of the requests fails."""
        pieces: list[tuple[int, Piece]] = []
        while not pieces:
            if self._given_up is not None:
                raise self._given_up
            if not self._inbox:
                if not self._num_unfinished:
                    raise StopAsyncIteration
                self._has_mail.clear()
                await self._has_mail.wait()
            try:
                while self._inbox:
                    pieces += self._read(*self._inbox.popleft())
            except ServingError as error:
                self._go_elsewhere(error)
                pieces.clear()  # nobody has had them, and they will come again
        if not self._has_begun:
            self._has_begun = True
            self._route.begun(time.monotonic() - self._start_s)
        return joined(pieces)

    def __enter__(self) -> Answers:
        return self

    def __exit__(self, *_: object) -> None:
        for request in self._requests:
            self._stream.abandon(request)

    def _read(self, prompt: int, outcome: Outcome) -> list[tuple[int, Piece]]:
        if isinstance(outcome, ServingError):
            raise outcome
        read = self._readers[prompt].read(outcome.infer_response)
        return [(prompt, piece) for piece in read]

    def _submit(self) -> None:
        self._stream = self._route.stream
        self._start_s = time.monotonic()
        self._num_unfinished = len(self._requests)
        self._readers = [PieceReader() for _ in self._requests]
        for prompt, request in enumerate(self._requests):
            self._stream.submit(request, partial(self._put, prompt))

    def _go_elsewhere(self, error: ServingError) -> None:
        """Begin again at another server, if nothing was heard from this one; else raise."""
        if self._is_cancelled or not self._route.failed(error) or self._has_begun:
            raise error
        self.__exit__()
        self._inbox.clear()
        self._submit()

    def cancel(self) -> None:
        """End the answers at the server; the pieces that tell of the end still come."""
        self._is_cancelled = True
        for request in self._requests:
            self._stream.cancel(request)

    def give_up(self, error: ServingError) -> None:
        """Cancel the answers at the server; the next step raises `error`, whatever had come."""
        self._given_up = error
        self.__exit__()
        self._inbox.clear()
        self._has_mail.set()

    def _put(self, prompt: int, outcome: Outcome, is_last: bool) -> None:
        self._num_unfinished -= is_last
        self._inbox.append((prompt, outcome))
        self._has_mail.set()


def joined(pieces: list[tuple[int, Piece]]) -> list[tuple[int, Piece]]:
    """Pieces of the same sequence as one, unless they tell log probabilities of their tokens."""
    if len(pieces) == 1 or any(piece.logprobs for _, piece in pieces):
        return pieces
    by_sequence: dict[tuple[int, int], list[Piece]] = {}
    for prompt, piece in pieces:
        by_sequence.setdefault((prompt, piece.sequence_index), []).append(piece)
    return [(prompt, parts[-1]._replace(text="".join(part.text for part in parts)))
            for (prompt, _), parts in by_sequence.items()]
