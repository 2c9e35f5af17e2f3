"""The model `detokenize`: the ids of chunks and their neighbours to the chunks' texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from tritonlm.backend.tensors import error_response, model_response, readable_id, request_tensors
from tritonlm.config import ModelConfig
from tritonlm.contract import (
    DETOKENIZE_IDS,
    DETOKENIZE_NUM_IDS,
    DETOKENIZE_SPAN,
    MODELS,
    Tensor,
)
from tritonlm.errors import InvalidArgument, ServingError
from tritonlm.logs import configure
from tritonlm.text.encoding import Encoder

MODEL = MODELS["detokenize"]


class Detokenize:
    """Decodes each request by itself: what was said before is in the request."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the tokenizer of the model's settings."""
        try:
            config = ModelConfig.from_triton(args)
            configure(args["model_instance_name"], config.log_format)
            self._encoder = Encoder(config)
        except ServingError as error:
            raise pb_utils.TritonModelException(error.message) from error

    def execute(
        self, requests: Sequence[pb_utils.InferenceRequest]
    ) -> list[pb_utils.InferenceResponse]:
        """One response for each request: the texts of its spans, or an error."""
        return [self._respond(request) for request in requests]

    def _respond(self, request: pb_utils.InferenceRequest) -> pb_utils.InferenceResponse:
        try:
            values = {"text_output": self._texts(request_tensors(request))}
            return model_response(MODEL, values, request.requested_output_names())
        except Exception as error:
            return error_response(error, readable_id(request))

    def _texts(self, tensors: Mapping[str, NDArray[Any]]) -> list[str]:
        ids = _row(tensors, DETOKENIZE_IDS)
        if ids.min(initial=0) < 0:
            raise InvalidArgument(DETOKENIZE_IDS.name, int(ids.min()), "allowed: 0 and more")
        num_ids = [ids.size]
        if DETOKENIZE_NUM_IDS.name in tensors:
            num_ids = _row(tensors, DETOKENIZE_NUM_IDS).tolist()
        if min(num_ids, default=0) < 0 or sum(num_ids) != ids.size:
            raise InvalidArgument(DETOKENIZE_NUM_IDS.name, num_ids,
                                  f"allowed: 0 and more, {ids.size} in all")
        texts = [self._encoder.decode(ids[end - count : end].tolist())
                 for count, end in zip(num_ids, np.cumsum(num_ids).tolist(), strict=True)]
        if DETOKENIZE_SPAN.name not in tensors:
            return texts
        spans = _row(tensors, DETOKENIZE_SPAN).tolist()
        if len(spans) != 2 * len(num_ids):
            raise InvalidArgument(DETOKENIZE_SPAN.name, spans, "two values for each text")
        return [_cut(text, *span) for text, span
                in zip(texts, zip(spans[::2], spans[1::2], strict=True), strict=True)]


def _cut(text: str, start: int, end: int) -> str:
    if not 0 <= start <= end <= len(text):
        raise InvalidArgument(DETOKENIZE_SPAN.name, [start, end],
                              f"allowed: 0 <= first <= last + 1 <= {len(text)}")
    return text[start:end]


def _row(tensors: Mapping[str, NDArray[Any]], tensor: Tensor) -> NDArray[np.int32]:
    if tensor.name not in tensors:  # where some inputs are optional, Triton asks for none
        raise InvalidArgument(tensor.name, "nothing", "one row: shape [1, n]")
    values = tensors[tensor.name]
    if len(values) != 1:
        raise InvalidArgument(tensor.name, list(values.shape), "one row: shape [1, n]")
    row: NDArray[np.int32] = values[0]
    return row
