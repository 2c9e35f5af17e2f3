"""Responses of `generate` as the gateway reads them: many a second, so without numpy."""

from __future__ import annotations

from typing import NamedTuple

from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse

from tritonlm.errors import EngineFailure

INT_BYTES = 4
LENGTH_BYTES = 4
"""Of the length that stands before each text."""
OUTPUTS = ("text_output", "finish_reason", "num_input_tokens", "num_output_tokens")
FIRST = [0]
NO_LOGPROBS = [""]


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


class PieceReader:
    """Reads the responses to one request."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    def read(self, response: ModelInferResponse) -> list[Piece]:
        """The pieces in a response, one for each sequence that it tells of."""
        raw = response.raw_output_contents
        if not raw:
            return []
        if not self._places:  # they are the same in all responses to a request
            self._places = {output.name: place for place, output in enumerate(response.outputs)}
        values = {name: raw[place] for name, place in self._places.items()}
        texts, reasons = _texts(values["text_output"]), _texts(values["finish_reason"])
        num_input = _ints(values["num_input_tokens"]) * len(texts)
        num_output = _ints(values["num_output_tokens"])
        indices = _ints(values.get("sequence_index", b"")) or FIRST
        logprobs = _texts(values.get("logprobs", b"")) or NO_LOGPROBS * len(texts)
        try:
            return list(map(Piece._make, zip(
                texts, reasons, num_input, num_output, indices, logprobs, strict=True)))
        except ValueError:
            raise EngineFailure("a response has outputs of different lengths") from None


def _texts(raw: bytes) -> list[str]:
    if len(raw) == LENGTH_BYTES + int.from_bytes(raw[:LENGTH_BYTES], "little"):  # nearly always
        return [raw[LENGTH_BYTES:].decode()]
    texts, place = [], 0
    while place < len(raw):
        start = place + LENGTH_BYTES
        place = start + int.from_bytes(raw[place:start], "little")
        texts.append(raw[start:place].decode())
    return texts


def _ints(raw: bytes) -> list[int]:
    if len(raw) == INT_BYTES:  # nearly always
        return [int.from_bytes(raw, "little", signed=True)]
    return [int.from_bytes(raw[place : place + INT_BYTES], "little", signed=True)
            for place in range(0, len(raw), INT_BYTES)]
