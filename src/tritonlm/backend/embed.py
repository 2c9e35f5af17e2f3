"""The model `embed`: texts to embeddings."""

from __future__ import annotations

from collections.abc import Mapping

from tritonlm.backend.task import TaskModel
from tritonlm.contract import TEXT
from tritonlm.encoders.config import EmbedConfig, from_triton
from tritonlm.encoders.embedder import Embedder


class Embed(TaskModel):
    """Computes a batch of rows at a time."""

    name = "embed"
    text_names = (TEXT.name,)

    def load(self, args: Mapping[str, str]) -> Embedder:
        """The task of the model's settings; raises `ServingError`."""
        return Embedder(from_triton(EmbedConfig, args))
