"""The model `classify`: texts to labels and scores."""

from __future__ import annotations

from collections.abc import Mapping

from tritonlm.backend.task import TaskModel
from tritonlm.contract import TEXT
from tritonlm.encoders.classifier import Classifier
from tritonlm.encoders.config import ClassifyConfig, from_triton


class Classify(TaskModel):
    """Computes a batch of rows at a time."""

    name = "classify"
    text_names = (TEXT.name,)

    def load(self, args: Mapping[str, str]) -> Classifier:
        """The task of the model's settings; raises `ServingError`."""
        return Classifier(from_triton(ClassifyConfig, args))
