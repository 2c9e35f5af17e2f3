"""The model `tokenize`: prompts to token ids."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from tritonlm.backend.batch_epilogue import INPUT_IDS, BatchEpilogue
from tritonlm.backend.refusals import Refusals
from tritonlm.backend.tensors import (
    error_response,
    model_response,
    readable_id,
    request_id,
    request_parameters,
    request_tensors,
)
from tritonlm.config import ModelConfig
from tritonlm.contract import MODELS, Prompt, parse_options, parse_prompt
from tritonlm.errors import ServingError
from tritonlm.logs import configure
from tritonlm.text.encoding import Encoder
from tritonlm.tracing import from_environment

MODEL = MODELS["tokenize"]
NO_PROMPT = Prompt(ids=np.zeros(1, np.int32))
"""What a request to cancel hands on: an id that nobody reads."""
Result: TypeAlias = "dict[str, NDArray[np.int32]] | Exception"


class Tokenize:
    """Encodes the texts of a whole Triton batch in one call of the tokenizer."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the tokenizer of the model's settings."""
        try:
            config = ModelConfig.from_triton(args)
            configure(args["model_instance_name"], config.log_format)
            self._epilogue = BatchEpilogue(args["model_name"], config.request_log,
                                           from_environment("tritonlm"))
            self._refusals = Refusals(args["model_name"], args["model_instance_name"])
            self._encoder = Encoder(config)
        except ServingError as error:
            raise pb_utils.TritonModelException(error.message) from error

    def execute(
        self, requests: Sequence[pb_utils.InferenceRequest]
    ) -> list[pb_utils.InferenceResponse]:
        """One response for each request: ids [1, n], or the error of its prompt alone."""
        began_s = time.monotonic()
        try:
            results = self._encode([_read_prompt(request) for request in requests])
        except Exception as error:
            results = [error for _ in requests]
        self._epilogue.tell(requests, results, began_s)
        for result in results:
            if isinstance(result, Exception):
                self._refusals.count(result)
        return [_response(*pair) for pair in zip(requests, results, strict=True)]

    def finalize(self) -> None:
        """Send what is left to tell, and leave no metrics."""
        self._epilogue.close()
        self._refusals.close()

    def _encode(self, prompts: Sequence[Prompt | Exception]) -> list[Result]:
        ids = iter(self._encoder.encode_batch([p for p in prompts if isinstance(p, Prompt)]))
        results = [next(ids) if isinstance(p, Prompt) else p for p in prompts]
        return [one if isinstance(one, Exception) else {INPUT_IDS: one} for one in results]


def _read_prompt(request: pb_utils.InferenceRequest) -> Prompt | Exception:
    try:
        tensors = request_tensors(request)
        options = parse_options(tensors, request_parameters(request), request_id(request))
        return NO_PROMPT if options.cancel else parse_prompt(tensors)
    except Exception as error:  # of this request alone, whatever it is
        return error


def _response(
    request: pb_utils.InferenceRequest, result: Result
) -> pb_utils.InferenceResponse:
    if isinstance(result, Exception):
        return error_response(result, readable_id(request))
    return model_response(MODEL, result, request.requested_output_names())
