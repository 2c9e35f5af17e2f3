"""The answers to the prompts of one call of the gateway's, as they come."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from functools import partial

from tritonclient.grpc.service_pb2 import ModelInferRequest
from typing_extensions import Self

from tritonlm.errors import ServingError
from tritonlm.gateway.pieces import Piece, read_pieces
from tritonlm.gateway.stream import Outcome, TritonStream


class Answers:
    """Iterate over it once: each step gives all (prompt, piece) that have come since the last.

    So a reader that is behind gets the tokens of several steps at once. Whatever is not over when
    the `with` block ends is cancelled at the server.
    """

    def __init__(self, stream: TritonStream, requests: Sequence[ModelInferRequest]) -> None:
        """Send `requests`, one for each prompt."""
        self._stream = stream
        self._requests = requests
        self._num_unfinished = len(requests)
        self._inbox: deque[tuple[int, Outcome]] = deque()
        self._has_mail = asyncio.Event()
        for prompt, request in enumerate(requests):
            stream.submit(request, partial(self._put, prompt))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[tuple[int, Piece]]:
        """At least one piece; raises `ServingError` if one of the requests fails."""
        pieces: list[tuple[int, Piece]] = []
        while not pieces:
            if not self._inbox:
                if not self._num_unfinished:
                    raise StopAsyncIteration
                self._has_mail.clear()
                await self._has_mail.wait()
            while self._inbox:
                pieces += _read(*self._inbox.popleft())
        return _joined(pieces)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for request in self._requests:
            self._stream.abandon(request)

    def cancel(self) -> None:
        """End the answers at the server; the pieces that tell of the end still come."""
        for request in self._requests:
            self._stream.cancel(request)

    def _put(self, prompt: int, outcome: Outcome, is_last: bool) -> None:
        self._num_unfinished -= is_last
        self._inbox.append((prompt, outcome))
        self._has_mail.set()


def _read(prompt: int, outcome: Outcome) -> list[tuple[int, Piece]]:
    if isinstance(outcome, ServingError):
        raise outcome
    return [(prompt, piece) for piece in read_pieces(outcome.infer_response)]


def _joined(pieces: list[tuple[int, Piece]]) -> list[tuple[int, Piece]]:
    """Pieces of the same sequence as one, unless they tell log probabilities of their tokens."""
    if len(pieces) == 1 or any(piece.logprobs for _, piece in pieces):
        return pieces
    by_sequence: dict[tuple[int, int], list[Piece]] = {}
    for prompt, piece in pieces:
        by_sequence.setdefault((prompt, piece.sequence_index), []).append(piece)
    return [(prompt, parts[-1]._replace(text="".join(part.text for part in parts)))
            for (prompt, _), parts in by_sequence.items()]
