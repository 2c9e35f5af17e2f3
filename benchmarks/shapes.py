"""Shapes of well-known models with random weights: the speed does not depend on what they are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, Qwen3Config

VOCAB_SIZE = 128_000
SHAPES: dict[str, PreTrainedConfig] = {
    # Qwen3-0.6B
    "Q06": Qwen3Config(
        vocab_size=VOCAB_SIZE, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28,
        num_attention_heads=16, num_key_value_heads=8, head_dim=128, tie_word_embeddings=True,
        max_position_embeddings=40_960),
    # Llama-3.1-8B
    "L8": LlamaConfig(
        vocab_size=VOCAB_SIZE, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=8, head_dim=128, tie_word_embeddings=False,
        max_position_embeddings=131_072),
}


def random_module(config: PreTrainedConfig, device: torch.device) -> Any:
    """A bfloat16 model of this shape, its weights drawn on `device`: nothing is read or copied."""
    torch.manual_seed(0)
    with device:
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)


def checkpoint(name: str, folder: Path, device: torch.device) -> Path:
    """The checkpoint of shape `name` in `folder`, written if it is not there."""
    path = folder / name
    if not path.exists():
        draft = folder / f"{name}.{os.getpid()}"
        random_module(SHAPES[name], device).save_pretrained(draft)
        draft.rename(path)
    return path
