"""What a client gets: chunks of an answer, whole answers, and models."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

from tritonlm.contract import Tensor
from tritonlm.errors import Unavailable


@dataclass(frozen=True)
class Chunk:
    """The next piece of an answer."""

    text: str
    token_ids: tuple[int, ...]
    index: int
    """Place of the chunk in the answer, from 0."""
    finish_reason: str
    """One of `tritonlm.contract.FINISH_REASONS`; the empty one says that more follows."""
    num_input_tokens: int | None
    """Tokens of the prompt; None if the request said `return_num_input_tokens=False`."""
    num_output_tokens: int | None
    """Tokens of the answer so far; None if the request said `return_num_output_tokens=False`."""


@dataclass(frozen=True)
class Completion:
    """A whole answer."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    num_input_tokens: int | None
    num_output_tokens: int | None
    request_id: str

    @classmethod
    def join(cls, request_id: str, chunks: Iterable[Chunk]) -> Completion:
        """The answer that `chunks` are the pieces of; raises `Unavailable` if there are none."""
        pieces = list(chunks)
        if not pieces:
            raise Unavailable(f"request {request_id} ended without an answer")
        return cls(
            text="".join(chunk.text for chunk in pieces),
            token_ids=tuple(chain.from_iterable(chunk.token_ids for chunk in pieces)),
            finish_reason=pieces[-1].finish_reason,
            num_input_tokens=pieces[-1].num_input_tokens,
            num_output_tokens=pieces[-1].num_output_tokens,
            request_id=request_id,
        )


@dataclass(frozen=True)
class ModelInfo:
    """A model in the server's repositories; one that is not loaded has no inputs and outputs."""

    name: str
    version: str
    state: str
    """READY, LOADING, UNLOADING, UNAVAILABLE, or empty for one that was never loaded."""
    reason: str
    """Why the model is in that state, if the server says."""
    is_decoupled: bool = False
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()

    @property
    def is_ready(self) -> bool:
        """Whether the model takes requests."""
        return self.state == "READY"
