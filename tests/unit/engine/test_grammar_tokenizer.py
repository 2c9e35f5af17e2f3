"""Grammars over vocabularies of several kinds: what they allow is what transformers decodes."""

from __future__ import annotations

import json

import jsonschema
import numpy as np
import pytest
from tests.small_tokenizers import build_tokenizer
from transformers import PreTrainedTokenizerFast

from tritonlm.config import ModelConfig
from tritonlm.engine.grammar import Grammar
from tritonlm.engine.grammar_tokenizer import grammar_tokenizer, load_grammar_tokenizer
from tritonlm.engine.grammar_trial import Trial

END = 2
NUM_UNNAMED = 13
SCHEMA = {"type": "object", "additionalProperties": False, "required": ["name", "at"],
          "properties": {"name": {"type": "string", "minLength": 2, "maxLength": 6},
                         "at": {"type": "array", "items": {"type": "integer", "minimum": -9,
                                                           "maximum": 99}, "maxItems": 3},
                         "kind": {"enum": ["näh  x", "東 京", None]}}}
TEXTS = ["a b", "two  spaces ", "東京 x\n"]


def tokenizer_of(kind):
    return PreTrainedTokenizerFast(tokenizer_object=build_tokenizer(kind), eos_token="</s>")


@pytest.fixture(scope="module")
def trial():
    return Trial()


def random_ids(start, seed):
    """Each token drawn from all that the grammar allows, to the end."""
    grammar, random, ids = start.copy(), np.random.default_rng(seed), []
    while END not in ids:
        masks = Grammar.masks([grammar]).view(np.uint8)
        ids.append(int(random.choice(np.flatnonzero(np.unpackbits(masks, bitorder="little")))))
        grammar.accept(ids[-1])
        assert grammar.error is None
    return ids


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback", "metaspace"])
def test_what_a_grammar_allows_is_what_is_decoded(trial, kind):
    tokenizer = tokenizer_of(kind)
    known = grammar_tokenizer(tokenizer, len(tokenizer) + NUM_UNNAMED, (END,))
    schema, choice = (Grammar.compile(guide, trial.source(guide), known) for guide in (
        ("guided_json", json.dumps(SCHEMA)), ("guided_choice", json.dumps(TEXTS))))
    for seed in range(20):
        said = tokenizer.decode(random_ids(schema, seed), skip_special_tokens=True)
        jsonschema.validate(json.loads(said), SCHEMA)
        assert tokenizer.decode(random_ids(choice, seed), skip_special_tokens=True) in TEXTS


def test_tokens_without_bytes_of_their_own_are_refused():
    with pytest.raises(ValueError, match="WordPiece"):
        grammar_tokenizer(tokenizer_of("word_piece"), 200, (END,))


def test_a_model_without_an_end_is_refused():
    with pytest.raises(ValueError, match="no end of sequence"):
        load_grammar_tokenizer(ModelConfig(), 200, ())


def test_a_model_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(ValueError, match="tokenizer cannot be loaded"):
        load_grammar_tokenizer(ModelConfig(model=str(tmp_path)), 200, (END,))
