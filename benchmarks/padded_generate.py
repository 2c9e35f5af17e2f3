"""A padded batch of the demo model in one call of `transformers.generate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from tritonlm.config import DEMO_CHECKPOINT


class PaddedGenerate:
    """Greedy, and as long as the longest answer takes; the others are cut."""

    def __init__(self) -> None:
        self._model: Any = AutoModelForCausalLM.from_pretrained(DEMO_CHECKPOINT, dtype="float32")
        self._model.eval()
        self._model.generation_config.eos_token_id = None

    def run(
        self, prompts: Sequence[NDArray[np.int32]], lengths: Sequence[int]
    ) -> list[NDArray[np.int64]]:
        """The `lengths` tokens that follow each of `prompts`."""
        width = max(prompt.size for prompt in prompts)
        ids = np.array([np.pad(prompt, (width - prompt.size, 0)) for prompt in prompts], np.int64)
        mask = np.array([np.arange(width) >= width - prompt.size for prompt in prompts], np.int64)
        out: NDArray[np.int64] = self._model.generate(
            torch.from_numpy(ids), attention_mask=torch.from_numpy(mask), do_sample=False,
            pad_token_id=0, max_new_tokens=max(lengths)).numpy()
        return [row[width : width + length] for row, length in zip(out, lengths, strict=True)]
