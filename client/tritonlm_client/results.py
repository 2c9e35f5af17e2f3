"""What a client gets: chunks of an answer, whole answers, and models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from tritonlm.contract import Tensor
from tritonlm.errors import Unavailable


@dataclass(frozen=True)
class TokenLogprob:
    """A token and its log probability, which is that of the model before any option acts."""

    token: str
    """Its text, with replacement characters where it cuts a character."""
    id: int
    logprob: float
    raw: bytes
    """What the text is made of."""
    alternatives: tuple[TokenLogprob, ...] = ()
    """The most likely tokens in its place, as many as were asked for."""


@dataclass(frozen=True)
class Logprobs:
    """Log probabilities of the tokens of a chunk or an answer."""

    content: tuple[TokenLogprob, ...]
    """Of each output token, if the request said `logprobs`."""
    prompt: tuple[TokenLogprob | None, ...] | None = None
    """Of each token of the prompt but the first, which has None, if it said `prompt_logprobs`."""


@dataclass(frozen=True)
class Chunk:
    """The next piece of an answer, or of one of several."""

    text: str
    token_ids: tuple[int, ...]
    index: int
    """Place of the chunk in its sequence, from 0."""
    finish_reason: str
    """One of `tritonlm.contract.FINISH_REASONS`; the empty one says that more follows."""
    num_input_tokens: int | None
    """Tokens of the prompt; None if the request said `return_num_input_tokens=False`."""
    num_output_tokens: int | None
    """Tokens of the sequence so far; None if the request said `return_num_output_tokens=False`."""
    sequence_index: int = 0
    """Which of the request's `n` sequences it belongs to, from 0."""
    logprobs: Logprobs | None = None
    """None if the request asked for no log probabilities."""
    perf_metrics: Mapping[str, float | None] | None = None
    """Where the time went, with the last chunk of a request that said `return_perf_metrics`."""


@dataclass(frozen=True)
class Completion:
    """A whole answer."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    num_input_tokens: int | None
    num_output_tokens: int | None
    request_id: str
    logprobs: Logprobs | None = None
    others: tuple[Completion, ...] = ()
    """The other sequences of a request with `n` above 1."""
    model: str = ""
    """The one that answered, which may be the fallback."""

    @classmethod
    def join(cls, request_id: str, chunks: Iterable[Chunk], model: str = "") -> Completion:
        """The answer that `chunks` are the pieces of; raises `Unavailable` if there are none."""
        sequences: dict[int, list[Chunk]] = {}
        for chunk in chunks:
            sequences.setdefault(chunk.sequence_index, []).append(chunk)
        if not sequences:
            raise Unavailable(f"request {request_id} ended without an answer")
        first, *others = (replace(cls._of_sequence(request_id, pieces), model=model)
                          for _, pieces in sorted(sequences.items()))
        return replace(first, others=tuple(others))

    @classmethod
    def _of_sequence(cls, request_id: str, pieces: Sequence[Chunk]) -> Completion:
        logprobs = [chunk.logprobs for chunk in pieces if chunk.logprobs is not None]
        return cls(
            text="".join(chunk.text for chunk in pieces),
            token_ids=tuple(chain.from_iterable(chunk.token_ids for chunk in pieces)),
            finish_reason=pieces[-1].finish_reason,
            num_input_tokens=pieces[-1].num_input_tokens,
            num_output_tokens=pieces[-1].num_output_tokens,
            request_id=request_id,
            logprobs=Logprobs(tuple(chain.from_iterable(one.content for one in logprobs)),
                              logprobs[0].prompt) if logprobs else None,
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
