"""Checkpoints of BERT in any size, with random weights and the demo's tokenizer."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import AutoModel, BertConfig

from tritonlm.config import DEMO_CHECKPOINT

VOCAB_SIZE = 1024
HEAD_DIM = 32


def save_bert(folder: Path, layers: int, hidden: int, longest: int) -> Path:
    """`folder`, with a model for rows of up to `longest` tokens."""
    torch.manual_seed(0)
    AutoModel.from_config(BertConfig(
        vocab_size=VOCAB_SIZE, num_hidden_layers=layers, hidden_size=hidden,
        intermediate_size=4 * hidden, num_attention_heads=hidden // HEAD_DIM,
        max_position_embeddings=longest)).save_pretrained(folder)
    for file in DEMO_CHECKPOINT.glob("tokenizer*"):
        shutil.copy(file, folder)
    return folder
