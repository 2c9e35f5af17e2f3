"""Small checkpoints with random weights, made on the spot."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

VOCAB_SIZE = 160
SIZES = {
    "vocab_size": VOCAB_SIZE, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}


def save_random_model(folder: Path, config: PreTrainedConfig | None = None) -> Path:
    """Write a model with sharp random weights, so that greedy choices are not near ties."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config or LlamaConfig(**SIZES))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    return folder


def save_parrot_model(folder: Path, text: str) -> Path:
    """Write a byte-level model that continues any beginning of `text` with the rest, then ends."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator([], trainers.BpeTrainer(
        special_tokens=["<end>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")
    ids = torch.tensor([[*fast.encode(text), fast.eos_token_id]])
    torch.manual_seed(0)
    sizes = SIZES | {"vocab_size": len(fast), "bos_token_id": None, "pad_token_id": None,
                     "eos_token_id": fast.eos_token_id, "max_position_embeddings": 512}
    model = AutoModelForCausalLM.from_config(LlamaConfig(**sizes))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(400):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if loss < 0.01:
            break
    assert loss < 0.02, "the parrot has not learned its text"
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder
