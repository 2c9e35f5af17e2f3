"""The demo model: transformers' own Llama, small, with dropout added while it trains."""

from __future__ import annotations

from typing import Any

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from tokenizer import BEGIN_OF_TEXT, END_OF_TEXT, IM_END, PAD


def build_model(tokenizer: Any, context_tokens: int) -> LlamaForCausalLM:
    """A Llama with fresh weights that ends at the end of a document or of a chat message."""
    begin, end, im_end, pad = tokenizer.convert_tokens_to_ids(
        [BEGIN_OF_TEXT, END_OF_TEXT, IM_END, PAD])
    special_ids = {"bos_token_id": begin, "eos_token_id": [end, im_end], "pad_token_id": pad}
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=context_tokens,
        tie_word_embeddings=True,
        **special_ids,
    ))
    model.generation_config = GenerationConfig(**special_ids)
    return model


def add_dropout(model: Any, probability: float) -> None:
    """Drop out embeddings and residual branches in training; Llama itself has no such dropout."""
    def drop(module: torch.nn.Module, _args: object, output: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.dropout(output, probability, module.training)

    model.model.embed_tokens.register_forward_hook(drop)
    for layer in model.model.layers:
        layer.self_attn.o_proj.register_forward_hook(drop)
        layer.mlp.down_proj.register_forward_hook(drop)
