"""Reranking: how well a document answers a query."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from tritonlm.contract import SCORE
from tritonlm.encoders.captured import Inputs
from tritonlm.encoders.checkpoint import Checkpoint
from tritonlm.encoders.config import RerankConfig
from tritonlm.encoders.loading import load_module, pad_id
from tritonlm.encoders.row_encoder import pair_encoder
from tritonlm.encoders.row_runner import RowRunner
from tritonlm.encoders.task import Tensors, make_ready

ACTIVATIONS = {"Sigmoid": "sigmoid", "Identity": "none"}
"""By the names of their classes in torch, which sentence-transformers writes down."""


class Reranker:
    """The task `rerank`: a cross-encoder with one label, or a causal model that says yes or no."""

    def __init__(self, settings: RerankConfig) -> None:
        """Load the checkpoint; raises `InvalidArgument` for one that gives no single score."""
        checkpoint = Checkpoint(settings)
        if not checkpoint.is_causal and checkpoint.config.num_labels != 1:
            raise checkpoint.refused(f"it has {checkpoint.config.num_labels} labels; a reranker "
                                     "has one, or is a causal language model")
        self.encoder = pair_encoder(checkpoint)
        self._is_sigmoid = (settings.activation == "sigmoid" or (settings.activation == "auto"
                            and _usual_activation(checkpoint) == "sigmoid"))
        is_causal = checkpoint.is_causal
        self._module = load_module(checkpoint, AutoModelForCausalLM if is_causal
                                   else AutoModelForSequenceClassification)
        tokenizer = self.encoder.tokenizer
        self._words = [_token_id(checkpoint, tokenizer, word)
                       for word in (settings.no_token, settings.yes_token)] if is_causal else []
        self.runner = RowRunner(
            self._module, self._say if is_causal else self._score,
            pad_id(self._module, tokenizer), settings.max_batch_tokens,
            has_types="token_type_ids" in tokenizer.model_input_names and not is_causal,
            is_left=is_causal)
        make_ready(checkpoint, self.runner, self.encoder.max_row_len)

    def _score(self, inputs: Inputs) -> torch.Tensor:
        logits: torch.Tensor = self._module(**inputs).logits
        return logits.float()

    def _say(self, inputs: Inputs) -> torch.Tensor:
        """The logit of yes beside no; rows end together, so that one place has all of them."""
        places = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
        logits = self._module(**inputs, position_ids=places, logits_to_keep=1).logits
        last: torch.Tensor = logits[:, -1].float()
        no, yes = self._words
        # By slices: places of several in a list would first be copied to the device.
        return last[:, yes : yes + 1] - last[:, no : no + 1]

    def check(self, tensors: Tensors) -> None:
        """There is nothing to ask for beside the rows."""

    def outputs(self, vectors: NDArray[np.float32], tensors: Tensors) -> dict[str, NDArray[Any]]:
        """The scores."""
        logits = torch.from_numpy(vectors)
        return {SCORE.name: (logits.sigmoid() if self._is_sigmoid else logits).numpy()}


def _usual_activation(checkpoint: Checkpoint) -> str:
    """As sentence-transformers has it in the config."""
    config = checkpoint.config
    told = (getattr(config, "sentence_transformers", None) or {}).get("activation_fn")
    name = told or getattr(config, "sbert_ce_default_activation_function", None) or "Sigmoid"
    kind = name.rpartition(".")[2].rstrip("()")
    if kind not in ACTIVATIONS:
        raise checkpoint.refused(f"its activation {name} is not supported; set activation")
    return ACTIVATIONS[kind]


def _token_id(checkpoint: Checkpoint, tokenizer: Any, word: str) -> int:
    token_id = tokenizer.get_vocab().get(word)
    if token_id is None:
        raise checkpoint.refused(f"its vocabulary has no token {word!r}; set yes_token and "
                                 "no_token")
    return int(token_id)
