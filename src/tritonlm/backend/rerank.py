"""The model `rerank`: queries and documents to scores."""

from __future__ import annotations

from tritonlm.backend.task import TaskModel
from tritonlm.contract import DOCUMENT, QUERY
from tritonlm.encoders.config import RerankConfig
from tritonlm.encoders.reranker import Reranker


class Rerank(TaskModel):
    """Computes a batch of rows at a time."""

    name = "rerank"
    text_names = (QUERY.name, DOCUMENT.name)
    config = RerankConfig
    task = Reranker
