"""Embeddings: a base model, a pooling, and perhaps length 1."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel

from tritonlm.contract import DIMENSIONS, EMBEDDING
from tritonlm.encoders.captured import Inputs
from tritonlm.encoders.checkpoint import Checkpoint
from tritonlm.encoders.config import EmbedConfig
from tritonlm.encoders.loading import load_module, pad_id
from tritonlm.encoders.pooling import normalized, pool
from tritonlm.encoders.row_encoder import RowEncoder
from tritonlm.encoders.row_runner import RowRunner
from tritonlm.encoders.task import Tensors, make_ready
from tritonlm.errors import InvalidArgument


class Embedder:
    """The task `embed`."""

    def __init__(self, settings: EmbedConfig) -> None:
        """Load the checkpoint; raises `InvalidArgument` for one that has no embeddings."""
        checkpoint = Checkpoint(settings)
        self.encoder = RowEncoder(checkpoint)
        self.pooling = settings.pooling
        if self.pooling == "auto":
            self.pooling = checkpoint.pooling or "mean"
        self.is_normalized = settings.normalize == "true" or (
            settings.normalize == "auto" and "Normalize" in checkpoint.modules)
        self._module = load_module(checkpoint, AutoModel)
        tokenizer = self.encoder.tokenizer
        self.runner = RowRunner(
            self._module, self._forward, pad_id(self._module, tokenizer), settings.max_batch_tokens,
            has_types="token_type_ids" in tokenizer.model_input_names)
        make_ready(checkpoint, self.runner, self.encoder.max_row_len)
        self.width = int(checkpoint.text_config.hidden_size)

    def _forward(self, inputs: Inputs) -> torch.Tensor:
        hidden = self._module(**inputs).last_hidden_state
        return pool(self.pooling, hidden.float(), inputs["attention_mask"])

    def check(self, tensors: Tensors) -> None:
        """Raise `InvalidArgument` for dimensions that there are not, or not the same for all."""
        asked = tensors.get(DIMENSIONS.name)
        if asked is not None and not 1 <= asked.min() == asked.max() <= self.width:
            raise InvalidArgument(DIMENSIONS.name, asked.reshape(-1).tolist(),
                                  f"allowed: 1 to {self.width}, the same in all rows")

    def outputs(self, vectors: NDArray[np.float32], tensors: Tensors) -> dict[str, NDArray[Any]]:
        """The embeddings, cut to the dimensions that are asked for."""
        asked = tensors.get(DIMENSIONS.name)
        cut = vectors if asked is None else vectors[:, : int(asked.flat[0])]
        return {EMBEDDING.name: normalized(cut) if self.is_normalized else cut}
