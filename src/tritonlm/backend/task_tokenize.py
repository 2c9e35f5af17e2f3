"""The models `embed_tokenize` and `rerank_tokenize`: texts to the rows that tasks take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from tritonlm.backend.task_rows import row_lengths, split_rows, task_response
from tritonlm.backend.tensors import error_response, request_parameters, request_tensors
from tritonlm.contract import (
    DOCUMENT,
    NUM_INPUT_TOKENS,
    QUERY,
    TASK_MODELS,
    TEXT,
    TOKEN_IDS,
    TOKEN_TYPE_IDS,
)
from tritonlm.encoders.checkpoint import Checkpoint
from tritonlm.encoders.config import EmbedConfig, RerankConfig, from_triton
from tritonlm.encoders.inputs import parse_items, refuse_parameters
from tritonlm.encoders.row_encoder import RowEncoder, pair_encoder
from tritonlm.encoders.rows import Item, Row, pad
from tritonlm.errors import InvalidArgument, ServingError


class TaskTokenize:
    """Base of both: encodes the texts of a whole Triton batch in one call of the tokenizer."""

    name: ClassVar[str]
    text_names: ClassVar[tuple[str, ...]]

    def load(self, args: Mapping[str, str]) -> RowEncoder:
        """The tokenizer of the model's settings; raises `ServingError`."""
        raise NotImplementedError

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the tokenizer."""
        try:
            self._encoder = self.load(args)
        except ServingError as error:
            raise pb_utils.TritonModelException(error.message) from error

    def execute(
        self, requests: Sequence[pb_utils.InferenceRequest]
    ) -> list[pb_utils.InferenceResponse]:
        """One response for each request: its rows, or the error of one of them."""
        parsed = [self._parse(request) for request in requests]
        try:
            rows = iter(split_rows(self._encoder, [one for one in parsed if isinstance(one, list)]))
        except Exception as error:
            return [error_response(error) for _ in requests]
        model = TASK_MODELS[self.name]
        return [task_response(model, _outputs(next(rows) if isinstance(one, list) else one),
                              request.requested_output_names())
                for request, one in zip(requests, parsed, strict=True)]

    def _parse(self, request: pb_utils.InferenceRequest) -> list[Item] | InvalidArgument:
        try:
            refuse_parameters(request_parameters(request))
            return parse_items(request_tensors(request), self.text_names)
        except InvalidArgument as error:
            return error


class EmbedTokenize(TaskTokenize):
    """Encodes texts."""

    name = "embed_tokenize"
    text_names = (TEXT.name,)

    def load(self, args: Mapping[str, str]) -> RowEncoder:
        """The tokenizer of the model's settings; raises `ServingError`."""
        return RowEncoder(Checkpoint(from_triton(EmbedConfig, args)))


class RerankTokenize(TaskTokenize):
    """Encodes pairs."""

    name = "rerank_tokenize"
    text_names = (QUERY.name, DOCUMENT.name)

    def load(self, args: Mapping[str, str]) -> RowEncoder:
        """The tokenizer of the model's settings; raises `ServingError`."""
        return pair_encoder(Checkpoint(from_triton(RerankConfig, args)))


def _outputs(rows: list[Row] | InvalidArgument) -> dict[str, NDArray[Any]] | InvalidArgument:
    if isinstance(rows, InvalidArgument):
        return rows
    padded = pad(rows, pad_id=0)
    return {TOKEN_IDS[0].name: padded.input_ids.astype("int32"),
            TOKEN_TYPE_IDS.name: padded.token_type_ids.astype("int32"),
            NUM_INPUT_TOKENS.name: row_lengths(rows)}
