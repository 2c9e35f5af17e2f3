"""The model `embed`: texts to embeddings."""

from __future__ import annotations

from tritonlm.backend.task import TaskModel
from tritonlm.contract import TEXT
from tritonlm.encoders.config import EmbedConfig
from tritonlm.encoders.embedder import Embedder


class Embed(TaskModel):
    """Computes a batch of rows at a time."""

    name = "embed"
    text_names = (TEXT.name,)
    config = EmbedConfig
    task = Embedder
