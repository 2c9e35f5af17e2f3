"""What several of the engine's test modules stand on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from guided import Guided
from small_engine import engine_of
from tests.checkpoints import SIZES, save_random_model
from tests.small_tokenizers import build_tokenizer
from transformers import LlamaConfig, PreTrainedTokenizerFast


@pytest.fixture(scope="module")
def guided_checkpoint(tmp_path_factory):
    """A vocabulary of bytes and pieces of words; the model has some logits more."""
    folder = tmp_path_factory.mktemp("guided")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=build_tokenizer("byte_level"),
                                        eos_token="</s>")
    tokenizer.save_pretrained(folder)
    sizes = SIZES | {"vocab_size": len(tokenizer) + 13, "max_position_embeddings": 2048,
                     "eos_token_id": tokenizer.eos_token_id}
    return save_random_model(folder, LlamaConfig(**sizes))


@pytest.fixture(scope="module")
def guided(guided_checkpoint):
    return Guided(engine_of(guided_checkpoint),
                  PreTrainedTokenizerFast.from_pretrained(guided_checkpoint))


@pytest.fixture
def unwritten_memory_is_nan() -> Iterator[None]:
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def same_numbers() -> None:
    torch.manual_seed(0)
