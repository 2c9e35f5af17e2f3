"""Small checkpoints for embeddings, reranking and classification, with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    LlamaConfig,
    ModernBertConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    RobertaConfig,
)

from tests.checkpoints import SIZES
from tests.small_tokenizers import CORPUS

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
MAX_LEN = 64
BERT_SIZES = {"vocab_size": 160, "hidden_size": 64, "intermediate_size": 96,
              "num_hidden_layers": 2, "num_attention_heads": 4,
              "max_position_embeddings": MAX_LEN, "pad_token_id": 0}
QWEN_SIZES = SIZES | {"vocab_size": 400, "head_dim": 16, "bos_token_id": None,
                      "eos_token_id": None, "pad_token_id": None}
CONFIGS: dict[str, Any] = {
    "bert": lambda **more: BertConfig(**BERT_SIZES, **more),
    "roberta": lambda **more: RobertaConfig(**BERT_SIZES | {
        "max_position_embeddings": MAX_LEN + 1}, **more),
    "modernbert": lambda **more: ModernBertConfig(
        **BERT_SIZES, global_rope_theta=10000.0, bos_token_id=2, eos_token_id=3, cls_token_id=2,
        sep_token_id=3, **more),
    "qwen3": lambda **more: Qwen3Config(**QWEN_SIZES, **more),
    "llama": lambda **more: LlamaConfig(**QWEN_SIZES, **more),
}


def save_embedder(
    folder: Path, family: str = "bert", pooling: str | None = "mean_tokens",
    normalizes: bool = True,
) -> Path:
    """A base model with sentence-transformers' files, unless `pooling` is None."""
    _save(folder, family, AutoModel, CONFIGS[family]())
    if pooling is None:
        return folder
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"),
               *([("2_Normalize", "Normalize")] if normalizes else [])]
    (folder / "modules.json").write_text(json.dumps([
        {"idx": place, "name": str(place), "path": path,
         "type": f"sentence_transformers.models.{kind}"}
        for place, (path, kind) in enumerate(modules)]))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(
        {"word_embedding_dimension": 64, f"pooling_mode_{pooling}": True,
         "pooling_mode_max_tokens": False}))
    return folder


def save_classifier(folder: Path, family: str = "bert", **config: Any) -> Path:
    """A model with `num_labels` labels, `id2label` or whatever `config` says."""
    return _save(folder, family, AutoModelForSequenceClassification, CONFIGS[family](**config))


def save_cross_encoder(folder: Path, family: str = "bert") -> Path:
    """A reranker with one label."""
    return save_classifier(folder, family, num_labels=1)


def save_causal_reranker(folder: Path, family: str = "qwen3") -> Path:
    """A causal model that says yes or no."""
    return _save(folder, family, AutoModelForCausalLM, CONFIGS[family]())


def _save(folder: Path, family: str, auto_class: Any, config: PreTrainedConfig) -> Path:
    torch.manual_seed(0)
    model = auto_class.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "embeddings" not in name:
                parameter.normal_(std=0.2)
    model.save_pretrained(folder)
    make = _byte_level if family in {"qwen3", "llama"} else _word_piece
    make(family == "bert").save_pretrained(folder)
    return folder


def _word_piece(has_types: bool) -> PreTrainedTokenizerFast:
    """As BERT: `[CLS] first [SEP] second [SEP]`."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(CORPUS, trainers.WordPieceTrainer(
        vocab_size=150, special_tokens=SPECIAL_TOKENS, show_progress=False))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")])
    names = ["input_ids", *(["token_type_ids"] if has_types else []), "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]",
        sep_token="[SEP]", model_max_length=MAX_LEN, model_input_names=names)


def _byte_level(_: bool) -> PreTrainedTokenizerFast:
    """As Qwen: bytes, and words for yes and no."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator([*CORPUS, "yes no " * 50], trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tokenizer.add_tokens(["yes", "no"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>",
                                   model_input_names=["input_ids", "attention_mask"])
