"""Small tokenizers of the kinds that checkpoints have, trained on the spot."""

from __future__ import annotations

import json
from functools import cache

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

CORPUS = [
    "The cat sat on the mat, and the dog sat on the cat's mat; didn't it?",
    "  Two spaces, a tab\tand a line\n\nbreak. Naïve café, déjà vu - 東京は東京。",
    "Now is the winter of our discontent made glorious summer by this sun of York. " * 2,
]
SPECIAL_TOKENS = ["<unk>", "<s>", "</s>"]
BYTE_TOKENS = [f"<0x{value:02X}>" for value in range(256)]


def _byte_level() -> Tokenizer:
    """As GPT-2, Llama 3 and Qwen: byte-level BPE, `<s>` before each text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL_TOKENS,
                                  show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    return _trained(tokenizer, trainer)


def _byte_fallback() -> Tokenizer:
    """As Llama 2: SentencePiece BPE; the decoder strips a space at the start."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"),
                                                 normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(),
                                           decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=SPECIAL_TOKENS,
                                  show_progress=False)
    return _with_byte_tokens(_trained(tokenizer, trainer))


def _metaspace() -> Tokenizer:
    """As Mistral: SentencePiece BPE; the decoder drops the space marks of the first token."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=SPECIAL_TOKENS,
                                  show_progress=False)
    return _with_byte_tokens(_trained(tokenizer, trainer))


def _word_piece() -> Tokenizer:
    """As BERT: words and their continuations; the decoder joins words with spaces."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=SPECIAL_TOKENS,
                                  show_progress=False)
    return _trained(tokenizer, trainer)


KINDS = {"byte_level": _byte_level, "byte_fallback": _byte_fallback, "metaspace": _metaspace,
         "word_piece": _word_piece}


def build_tokenizer(kind: str) -> Tokenizer:
    """A new tokenizer of one of `KINDS`, with the same ids each time."""
    return Tokenizer.from_str(_content(kind))


@cache
def _content(kind: str) -> str:
    return KINDS[kind]().to_str()


def _trained(tokenizer: Tokenizer, trainer: trainers.Trainer) -> Tokenizer:
    tokenizer.train_from_iterator(CORPUS, trainer)
    start = SPECIAL_TOKENS[1]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A", special_tokens=[(start, tokenizer.token_to_id(start))])
    return tokenizer


def _with_byte_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """Bytes are part of the model's vocabulary: as added tokens they would not be decoded."""
    content = json.loads(tokenizer.to_str())
    vocab = content["model"]["vocab"]
    vocab |= {token: len(vocab) + i for i, token in enumerate(BYTE_TOKENS)}
    return Tokenizer.from_str(json.dumps(content))
