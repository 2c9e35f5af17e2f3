"""The models `embed_tokenize` and `rerank_tokenize`: texts to the rows that tasks take."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import ClassVar

import triton_python_backend_utils as pb_utils

from tritonlm.backend.batch_epilogue import BatchEpilogue
from tritonlm.backend.task_rows import Result, row_lengths, split_rows, task_responses
from tritonlm.backend.tensors import request_parameters, request_tensors
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
from tritonlm.encoders.config import EmbedConfig, RerankConfig, TaskConfig, from_triton
from tritonlm.encoders.inputs import parse_items, refuse_parameters
from tritonlm.encoders.row_encoder import RowEncoder, pair_encoder
from tritonlm.encoders.rows import Item, Row, pad, shape_of
from tritonlm.errors import InvalidArgument, ServingError
from tritonlm.logs import configure
from tritonlm.tracing import from_environment


class TaskTokenize:
    """Base of both: encodes the texts of a whole Triton batch in one call of the tokenizer."""

    name: ClassVar[str]
    text_names: ClassVar[tuple[str, ...]]
    config: ClassVar[type[TaskConfig]]

    def load(self, checkpoint: Checkpoint) -> RowEncoder:
        """The tokenizer of a checkpoint; raises `ServingError`."""
        raise NotImplementedError

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the tokenizer."""
        try:
            config = from_triton(self.config, args)
            configure(args["model_instance_name"], config.log_format)
            self._epilogue = BatchEpilogue(args["model_name"], config.request_log,
                                           from_environment("tritonlm"))
            self._encoder = self.load(Checkpoint(config))
        except ServingError as error:
            raise pb_utils.TritonModelException(error.message) from error

    def execute(
        self, requests: Sequence[pb_utils.InferenceRequest]
    ) -> list[pb_utils.InferenceResponse]:
        """One response for each request: its rows, or the error of one of them."""
        began_s = time.monotonic()
        results = self._results(requests)
        self._epilogue.tell(requests, results, began_s)
        return task_responses(TASK_MODELS[self.name], requests, results)

    def finalize(self) -> None:
        """Send what is left to tell."""
        self._epilogue.close()

    def _results(self, requests: Sequence[pb_utils.InferenceRequest]) -> list[Result]:
        parsed = [self._parse(request) for request in requests]
        try:
            rows = iter(split_rows(self._encoder, [one for one in parsed if isinstance(one, list)]))
            return [_outputs(next(rows) if isinstance(one, list) else one) for one in parsed]
        except Exception as error:
            return [error for _ in requests]

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
    config = EmbedConfig

    def load(self, checkpoint: Checkpoint) -> RowEncoder:
        """The tokenizer of a checkpoint; raises `ServingError`."""
        return RowEncoder(checkpoint)


class RerankTokenize(TaskTokenize):
    """Encodes pairs."""

    name = "rerank_tokenize"
    text_names = (QUERY.name, DOCUMENT.name)
    config = RerankConfig

    def load(self, checkpoint: Checkpoint) -> RowEncoder:
        """The tokenizer of a checkpoint; raises `ServingError`."""
        return pair_encoder(checkpoint)


def _outputs(rows: list[Row] | InvalidArgument) -> Result:
    if isinstance(rows, InvalidArgument):
        return rows
    padded = pad(rows, shape_of(rows), pad_id=0)
    return {TOKEN_IDS[0].name: padded.input_ids.astype("int32"),
            TOKEN_TYPE_IDS.name: padded.token_type_ids.astype("int32"),
            NUM_INPUT_TOKENS.name: row_lengths(rows)}
