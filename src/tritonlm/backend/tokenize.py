"""The model `tokenize`: prompts to token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from tritonlm.backend.tensors import (
    error_response,
    model_response,
    request_parameters,
    request_tensors,
)
from tritonlm.config import ModelConfig
from tritonlm.contract import MODELS, Prompt, parse_options, parse_prompt
from tritonlm.errors import InvalidArgument, ServingError
from tritonlm.logs import configure
from tritonlm.text.encoding import Encoder

MODEL = MODELS["tokenize"]
NO_PROMPT = Prompt(ids=np.zeros(1, np.int32))
"""What a request to cancel hands on: an id that nobody reads."""


class Tokenize:
    """Encodes the texts of a whole Triton batch in one call of the tokenizer."""

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
        """One response for each request: ids [1, n], or the error of its prompt alone."""
        try:
            results = self._encode([_read_prompt(request) for request in requests])
        except Exception as error:
            return [error_response(error) for _ in requests]
        return [_response(*pair) for pair in zip(requests, results, strict=True)]

    def _encode(
        self, prompts: Sequence[Prompt | InvalidArgument]
    ) -> list[NDArray[np.int32] | InvalidArgument]:
        results = iter(self._encoder.encode_batch([p for p in prompts if isinstance(p, Prompt)]))
        return [next(results) if isinstance(p, Prompt) else p for p in prompts]


def _read_prompt(request: pb_utils.InferenceRequest) -> Prompt | InvalidArgument:
    tensors = request_tensors(request)
    try:
        options = parse_options(tensors, request_parameters(request), request.request_id())
        return NO_PROMPT if options.cancel else parse_prompt(tensors)
    except InvalidArgument as error:
        return error


def _response(
    request: pb_utils.InferenceRequest, result: NDArray[np.int32] | InvalidArgument
) -> pb_utils.InferenceResponse:
    if isinstance(result, InvalidArgument):
        return error_response(result)
    return model_response(MODEL, {"input_ids": result}, request.requested_output_names())
