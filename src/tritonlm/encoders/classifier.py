"""Classification: labels of a text and their scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification

from tritonlm.contract import LABEL, SCORE
from tritonlm.encoders.captured import Inputs
from tritonlm.encoders.checkpoint import Checkpoint
from tritonlm.encoders.config import ClassifyConfig
from tritonlm.encoders.loading import load_module, pad_id
from tritonlm.encoders.row_encoder import RowEncoder
from tritonlm.encoders.row_runner import RowRunner
from tritonlm.encoders.task import Tensors, make_ready

SINGLE, MULTI, REGRESSION = ("single_label_classification", "multi_label_classification",
                             "regression")


class Classifier:
    """The task `classify`."""

    def __init__(self, settings: ClassifyConfig) -> None:
        """Load the checkpoint; raises `InvalidArgument` for one that has no labels."""
        checkpoint = Checkpoint(settings)
        self.encoder = RowEncoder(checkpoint)
        self._module = load_module(checkpoint, AutoModelForSequenceClassification)
        tokenizer = self.encoder.tokenizer
        self.runner = RowRunner(
            self._module, self._forward, pad_id(self._module, tokenizer), settings.max_batch_tokens,
            has_types="token_type_ids" in tokenizer.model_input_names)
        make_ready(checkpoint, self.runner, self.encoder.max_row_len)
        config = self._module.config
        self._labels = np.array([str(config.id2label[place]).encode()
                                 for place in range(config.num_labels)], np.object_)
        self._problem = config.problem_type or (SINGLE if config.num_labels > 1 else MULTI)

    def _forward(self, inputs: Inputs) -> torch.Tensor:
        logits: torch.Tensor = self._module(**inputs).logits
        return logits.float()

    def check(self, tensors: Tensors) -> None:
        """There is nothing to ask for beside the rows."""

    def outputs(self, vectors: NDArray[np.float32], tensors: Tensors) -> dict[str, NDArray[Any]]:
        """All labels, the likeliest first, and their scores."""
        logits = torch.from_numpy(vectors)
        scores = {SINGLE: logits.softmax(1), MULTI: logits.sigmoid(),
                  REGRESSION: logits}[self._problem].numpy()
        order = np.argsort(-scores, axis=1, kind="stable")
        return {LABEL.name: self._labels[order],
                SCORE.name: np.take_along_axis(scores, order, axis=1)}
