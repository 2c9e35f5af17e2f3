"""The model `detokenize`: the ids of a chunk and its neighbours to the chunk's text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import triton_python_backend_utils as pb_utils

from tritonlm.backend.tensors import error_response, model_response, request_tensors
from tritonlm.config import ModelConfig
from tritonlm.contract import DETOKENIZE_IDS, DETOKENIZE_SPAN, MODELS
from tritonlm.errors import InvalidArgument, ServingError
from tritonlm.text.encoding import Encoder

MODEL = MODELS["detokenize"]


class Detokenize:
    """Decodes each request by itself: what was said before is in the request."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the tokenizer of the model's settings."""
        try:
            self._encoder = Encoder(ModelConfig.from_triton(args))
        except ServingError as error:
            raise pb_utils.TritonModelException(error.message) from error

    def execute(
        self, requests: Sequence[pb_utils.InferenceRequest]
    ) -> list[pb_utils.InferenceResponse]:
        """One response for each request: the text of its span, or an error."""
        return [self._respond(request) for request in requests]

    def _respond(self, request: pb_utils.InferenceRequest) -> pb_utils.InferenceResponse:
        try:
            values = {"text_output": self._text(request)}
            return model_response(MODEL, values, request.requested_output_names())
        except Exception as error:
            return error_response(error)

    def _text(self, request: pb_utils.InferenceRequest) -> str:
        tensors = request_tensors(request)
        ids, spans = tensors[DETOKENIZE_IDS.name], tensors[DETOKENIZE_SPAN.name]
        if len(ids) != 1:
            raise InvalidArgument(DETOKENIZE_IDS.name, list(ids.shape), "one row: shape [1, n]")
        if ids.min(initial=0) < 0:
            raise InvalidArgument(DETOKENIZE_IDS.name, int(ids.min()), "allowed: 0 and more")
        text = self._encoder.decode(ids[0].tolist())
        start, end = spans[0].tolist()
        if not 0 <= start <= end <= len(text):
            raise InvalidArgument(DETOKENIZE_SPAN.name, [start, end],
                                  f"allowed: 0 <= first <= last + 1 <= {len(text)}")
        return text[start:end]
