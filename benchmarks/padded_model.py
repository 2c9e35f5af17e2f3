"""The Triton model `padded`: a batch of whole requests in one call of `transformers.generate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import triton_python_backend_utils as pb_utils

from benchmarks.padded_generate import PaddedGenerate

INPUTS = ("input_ids", "max_tokens")


class PaddedModel:
    """Answers the requests of a batch when the longest of them is done."""

    def initialize(self, _: Mapping[str, str]) -> None:
        """Load the model."""
        self._generate = PaddedGenerate()

    def execute(
        self, requests: Sequence[pb_utils.InferenceRequest]
    ) -> list[pb_utils.InferenceResponse]:
        """A response for each."""
        prompts, lengths = ([pb_utils.get_input_tensor_by_name(request, name).as_numpy()[0]
                             for request in requests] for name in INPUTS)
        answers = self._generate.run(prompts, [int(length[0]) for length in lengths])
        return [pb_utils.InferenceResponse([
            pb_utils.Tensor("output_ids", ids[np.newaxis].astype(np.int32))]) for ids in answers]
