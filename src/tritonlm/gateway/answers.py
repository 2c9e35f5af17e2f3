"""The answers to the prompts of one call of the gateway's, as they come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from typing import Protocol

from tritonclient.grpc.service_pb2 import ModelInferRequest

from tritonlm.errors import ServingError
from tritonlm.gateway.leased_stream import LeasedStream
from tritonlm.gateway.pieces import Piece, PieceReader
from tritonlm.gateway.stream import Outcome, TritonStream

MAX_UNJOINED = 4096
"""Pieces that wait for a slow reader; if there are more, those of a sequence become one."""


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
        self._pieces: list[tuple[int, Piece]] = []
        self._max_pieces = MAX_UNJOINED
        self._error: Exception | None = None
        self._has_mail = asyncio.Event()
        self._has_begun = False
        self._is_cancelled = False
        self._submit()

    def __aiter__(self) -> Answers:
        return self

    async def __anext__(self) -> list[tuple[int, Piece]]:
        """At least one piece; raises `ServingError` if one of the requests fails."""
        while self._error is not None or not self._pieces:
            if self._error is not None:
                self._go_elsewhere(self._error)
            elif not self._num_unfinished:
                raise StopAsyncIteration
            else:
                self._has_mail.clear()
                await self._has_mail.wait()
        pieces, self._pieces = self._pieces, []
        if not self._has_begun:
            self._has_begun = True
            self._route.begun(time.monotonic() - self._start_s)
        return joined(pieces)

    def __enter__(self) -> Answers:
        return self

    def __exit__(self, *_: object) -> None:
        for request in self._requests:
            self._stream.abandon(request)

    def _submit(self) -> None:
        self._stream = self._route.stream
        self._start_s = time.monotonic()
        self._num_unfinished = len(self._requests)
        self._readers = [PieceReader() for _ in self._requests]
        for prompt, request in enumerate(self._requests):
            self._stream.submit(request, partial(self._put, prompt))

    def _go_elsewhere(self, error: Exception) -> None:
        """Begin again at another server, if nothing was heard from this one; else raise."""
        if (self._is_cancelled or not isinstance(error, ServingError)
                or not self._route.failed(error) or self._has_begun):
            raise error
        self.__exit__()
        self._error = None
        self._pieces = []  # nobody has had them, and they will come again
        self._submit()

    def cancel(self) -> None:
        """End the answers at the server; the pieces that tell of the end still come."""
        self._is_cancelled = True
        for request in self._requests:
            self._stream.cancel(request)

    def give_up(self, error: ServingError) -> None:
        """Cancel the answers at the server; the next step raises `error`, whatever had come."""
        self._is_cancelled = True
        self.__exit__()
        self._fail(error)

    def _put(self, prompt: int, outcome: Outcome, is_last: bool) -> None:
        """Take in what a server says; its messages are many times as large as the pieces."""
        self._num_unfinished -= is_last
        try:
            self._pieces += self._read(prompt, outcome)
        except Exception as error:  # for whoever reads the answers
            self._fail(error)
        if len(self._pieces) > self._max_pieces:
            self._pieces = joined(self._pieces)
            self._max_pieces = len(self._pieces) + MAX_UNJOINED
        self._has_mail.set()

    def _read(self, prompt: int, outcome: Outcome) -> list[tuple[int, Piece]]:
        if isinstance(outcome, ServingError):
            raise outcome
        read = self._readers[prompt].read(outcome.infer_response)
        return [(prompt, piece) for piece in read]

    def _fail(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
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
