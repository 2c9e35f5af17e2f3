"""The model `rerank`: queries and documents to scores."""

from __future__ import annotations

from collections.abc import Mapping

from tritonlm.backend.task import TaskModel
from tritonlm.contract import DOCUMENT, QUERY
from tritonlm.encoders.config import RerankConfig, from_triton
from tritonlm.encoders.reranker import Reranker


class Rerank(TaskModel):
    """Computes a batch of rows at a time."""

    name = "rerank"
    text_names = (QUERY.name, DOCUMENT.name)

    def load(self, args: Mapping[str, str]) -> Reranker:
        """The task of the model's settings; raises `ServingError`."""
        return Reranker(from_triton(RerankConfig, args))
