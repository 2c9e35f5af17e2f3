"""How the runner of a CPU holds a model."""

from __future__ import annotations

import pytest
import torch
from drive import run_all, submit
from small_engine import engine_of
from tests.checkpoints import SIZES, save_random_model
from transformers import LlamaConfig


def module_of(folder, is_tied, **settings):
    save_random_model(folder, LlamaConfig(**SIZES, tie_word_embeddings=is_tied))
    engine = engine_of(folder, device="cpu", **settings)
    return engine.runner.run.func.__self__._model.module


@pytest.mark.parametrize("is_tied", [True, False])
def test_matrices_are_stored_by_column_but_for_embeddings(is_tied, tmp_path):
    module = module_of(tmp_path, is_tied)
    assert module.model.layers[0].mlp.up_proj.weight.t().is_contiguous()
    assert module.lm_head.weight.t().is_contiguous() is not is_tied
    assert module.model.embed_tokens.weight.is_contiguous()


def test_a_chunk_of_a_prompt_has_no_logits_but_one(tmp_path):
    engine = engine_of(save_random_model(tmp_path), device="cpu", max_num_batched_tokens=32)
    num_logits, head = [], engine.runner.run.func.__self__._model.module.lm_head
    head.register_forward_hook(lambda _module, _inputs, out: num_logits.append(out.shape[1]))
    run_all(engine, {0: [submit(0, range(3, 80), 3)]})
    assert num_logits == [1] * 5


def test_half_precision_stays_as_it_is(tmp_path):
    weight = module_of(tmp_path, True, dtype="bfloat16").model.layers[0].mlp.up_proj.weight
    assert weight.dtype == torch.bfloat16
    assert weight.is_contiguous()
