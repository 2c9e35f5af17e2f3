"""A last layer that passes over tokens nobody asks about says the same of the others."""

from __future__ import annotations

import pytest
import torch
import transformers
from tests.checkpoints import SIZES
from transformers import AutoModelForCausalLM

from tritonlm.engine.last_layer import WantedRows, trim_last_layer

TOKENS = torch.arange(12)[None]


def model_of(family, **options):
    config = getattr(transformers, f"{family}Config")(**SIZES | options)
    return AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


@pytest.mark.parametrize("family", ["Llama", "Gemma2", "Qwen3"])
def test_wanted_logits_stay_the_same_and_the_mlp_sees_no_other_token(family):
    model = model_of(family)
    wanted = torch.tensor([11, 3, 0, 0])
    expected = model(TOKENS).logits[0, wanted]
    assert trim_last_layer(model)
    last, = (part for part in model.modules() if isinstance(part, WantedRows))
    seen = []
    last.mlp.register_forward_pre_hook(lambda _module, arguments: seen.append(arguments[0].shape))
    last.places = wanted
    torch.testing.assert_close(model(TOKENS, logits_to_keep=wanted).logits[0], expected)
    assert [shape[1] for shape in seen] == [4]


def test_the_places_are_for_one_step():
    model = model_of("Llama")
    assert trim_last_layer(model)
    with pytest.raises(AssertionError, match="to be set before"):
        model(TOKENS)


@pytest.mark.parametrize(("family", "options"), [("GPT2", {}), ("Mixtral", {}), (
    "Qwen3Moe", {"num_experts": 4, "moe_intermediate_size": 32, "num_experts_per_tok": 2})])
def test_what_has_no_plain_mlp_stays_as_it_is(family, options):
    model = model_of(family, **options)
    expected = model(TOKENS).logits
    assert not trim_last_layer(model)
    torch.testing.assert_close(model(TOKENS).logits, expected)
