"""The model `classify`: texts to labels and scores."""

from __future__ import annotations

from tritonlm.backend.task import TaskModel
from tritonlm.contract import TEXT
from tritonlm.encoders.classifier import Classifier
from tritonlm.encoders.config import ClassifyConfig


class Classify(TaskModel):
    """Computes a batch of rows at a time."""

    name = "classify"
    text_names = (TEXT.name,)
    config = ClassifyConfig
    task = Classifier
