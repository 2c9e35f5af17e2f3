"""Responses of `generate` as the gateway reads them: many a second, so without numpy."""

from __future__ import annotations

from typing import Any, NamedTuple

from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse

from tritonlm.contract import ANSWER
from tritonlm.errors import EngineFailure

INT_BYTES = 4
LENGTH_BYTES = 4
"""Of the length that stands before each text."""
OUTPUTS = ("text_output", "finish_reason", "num_input_tokens", "num_output_tokens")
TEXTS = {tensor.name for tensor in ANSWER if tensor.dtype == "BYTES"}


class Piece(NamedTuple):
    """What a response says of one sequence."""

    text: str
    finish_reason: str
    """Empty while more follows."""
    num_input_tokens: int
    num_output_tokens: int
    """Tokens of the sequence so far."""
    sequence_index: int = 0
    logprobs: str = ""
    """JSON as docs/options.md has it; empty if none were asked for."""


def ask_for_pieces(request: ModelInferRequest, is_several: bool, with_logprobs: bool) -> None:
    """Have `request` answered with what a `Piece` needs, and nothing else."""
    del request.outputs[:]
    for name in (*OUTPUTS, *["sequence_index"] * is_several, *["logprobs"] * with_logprobs):
        request.outputs.add(name=name)


def read_pieces(response: ModelInferResponse) -> list[Piece]:
    """The pieces in a response, one for each sequence that it tells of."""
    values: dict[str, list[Any]] = {
        output.name: (_texts if output.name in TEXTS else _ints)(raw)
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)}
    if not values:
        return []
    texts = values["text_output"]
    num_input = values["num_input_tokens"] * len(texts)
    indices = values.get("sequence_index") or [0]
    logprobs = values.get("logprobs") or [""] * len(texts)
    try:
        return list(map(Piece._make, zip(
            texts, values["finish_reason"], num_input, values["num_output_tokens"], indices,
            logprobs, strict=True)))
    except ValueError:
        raise EngineFailure("a response has outputs of different lengths") from None


def _texts(raw: bytes) -> list[str]:
    texts, place = [], 0
    while place < len(raw):
        start = place + LENGTH_BYTES
        place = start + int.from_bytes(raw[place:start], "little")
        texts.append(raw[start:place].decode())
    return texts


def _ints(raw: bytes) -> list[int]:
    return [int.from_bytes(raw[place : place + INT_BYTES], "little", signed=True)
            for place in range(0, len(raw), INT_BYTES)]
