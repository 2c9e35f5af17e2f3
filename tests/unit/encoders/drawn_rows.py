"""Tasks, and rows of any lengths for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tests.task_checkpoints import (
    save_causal_reranker,
    save_classifier,
    save_cross_encoder,
    save_embedder,
)

from tritonlm.encoders.classifier import Classifier
from tritonlm.encoders.config import ClassifyConfig, EmbedConfig, RerankConfig
from tritonlm.encoders.embedder import Embedder
from tritonlm.encoders.reranker import Reranker
from tritonlm.encoders.rows import Row

MAX_LEN = 64
TEMPLATE = "Q{query}D{document}"


class Kind(NamedTuple):
    """A task, and how a checkpoint for it is made in a folder."""

    task: Any
    config: Any
    save: Any
    options: dict[str, Any]
    has_types: bool = False

    def make(self, folder: Path, **settings: Any) -> Any:
        """The task, with `settings`."""
        return self.task(self.config(model=str(folder), max_model_len=MAX_LEN, **settings))


KINDS = {
    "bert": Kind(Embedder, EmbedConfig, save_embedder, {}, True),
    "bert_cls": Kind(Embedder, EmbedConfig, save_embedder, {"pooling": "cls_token"}, True),
    "roberta": Kind(Embedder, EmbedConfig, save_embedder, {"family": "roberta"}),
    "modernbert": Kind(Embedder, EmbedConfig, save_embedder, {"family": "modernbert"}),
    "qwen3_last": Kind(Embedder, EmbedConfig, save_embedder,
                       {"family": "qwen3", "pooling": "lasttoken"}),
    "cross_encoder": Kind(Reranker, RerankConfig, save_cross_encoder, {}, True),
    "qwen3_cross_encoder": Kind(Reranker, RerankConfig, save_cross_encoder, {"family": "qwen3"}),
    "causal_reranker": Kind(
        lambda config: Reranker(RerankConfig(**vars(config) | {"prompt_template": TEMPLATE})),
        RerankConfig, save_causal_reranker, {}),
    "classifier": Kind(Classifier, ClassifyConfig, save_classifier, {"num_labels": 3}, True),
}


def draw_rows(random: np.random.Generator, num_rows: int, has_types: bool) -> list[Row]:
    """Rows of 1 to `MAX_LEN` tokens, of two types if there are types."""
    lengths = random.integers(1, MAX_LEN + 1, num_rows)
    return [Row(random.integers(5, 150, length).astype(np.int32),
                random.integers(0, 2, length).astype(np.int32) if has_types else None)
            for length in lengths]
