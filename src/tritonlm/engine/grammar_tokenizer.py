"""A checkpoint's vocabulary as grammars know it: the bytes that each token stands for."""

from __future__ import annotations

import json
from typing import Any

from llguidance import LLTokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tritonlm.config import ModelConfig
from tritonlm.errors import first_line

PROBE = '[{"a b": 1.5,\n "c": ["d  e", -2]}]'
"""A text with what grammars care for."""


def load_grammar_tokenizer(
    config: ModelConfig, vocab_size: int, eos_ids: tuple[int, ...]
) -> LLTokenizer:
    """That of the model of `config`; raises `ValueError` where tokens stand for no fixed bytes."""
    if not eos_ids:
        raise ValueError("this model has no end of sequence, with which a held answer ends")
    try:
        tokenizer = AutoTokenizer.from_pretrained(config.model, revision=config.revision)
    # Missing, malformed and unknown files raise anything, from OSError to Rust's bare Exception.
    except Exception as error:
        raise ValueError(f"this model's tokenizer cannot be loaded: {first_line(error)}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError("this model's tokenizer is none of the library tokenizers")
    return grammar_tokenizer(tokenizer, vocab_size, eos_ids)


def grammar_tokenizer(
    tokenizer: PreTrainedTokenizerFast, vocab_size: int, eos_ids: tuple[int, ...]
) -> LLTokenizer:
    """As `load_grammar_tokenizer`."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content["decoder"] = _without_metaspace(content["decoder"])
    known = LLTokenizer(json.dumps(content), n_vocab=max(vocab_size, len(tokenizer)),
                        eos_token=list(eos_ids))
    ids = tokenizer.encode(PROBE, add_special_tokens=False)
    said = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    if known.decode_bytes(ids).decode(errors="replace").lstrip(" ") != said.lstrip(" "):
        raise ValueError("the tokens of this model stand for no fixed bytes")
    return known


def _without_metaspace(decoder: dict[str, Any] | None) -> dict[str, Any] | None:
    """The same in terms that the grammar library knows."""
    if decoder is None:
        return None
    if decoder["type"] == "Sequence":
        return decoder | {"decoders": [_without_metaspace(part) for part in decoder["decoders"]]}
    if decoder["type"] == "Metaspace":
        return {"type": "Replace", "pattern": {"String": decoder["replacement"]}, "content": " "}
    return decoder
