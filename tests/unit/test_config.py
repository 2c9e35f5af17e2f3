"""Settings from texts, and back to texts."""

from __future__ import annotations

import pytest

from tritonlm.config import ModelConfig
from tritonlm.errors import InvalidArgument


def test_parameters_go_before_the_environment():
    config = ModelConfig.build({"block_size": "32"}, {"TRITONLM_BLOCK_SIZE": "8",
                                                      "TRITONLM_MAX_PREFILL_CHUNK": "100"})
    assert (config.block_size, config.max_prefill_chunk) == (32, 100)


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False)])
def test_a_switch_is_true_or_false(text, value):
    assert ModelConfig.build({"prefix_cache": text}, {}).prefix_cache is value


@pytest.mark.parametrize("text", ["False", "0", "no", ""])
def test_a_switch_is_nothing_else(text):
    with pytest.raises(InvalidArgument, match="true or false"):
        ModelConfig.build({"prefix_cache": text}, {})


@pytest.mark.parametrize(("name", "text"), [
    ("max_prefill_chunk", "0"), ("priority_ageing_s", "-1"), ("priority_ageing_s", "soon"),
    ("max_num_batched_tokens", "8"), ("block_size", "24"), ("no_such_setting", "1")])
def test_a_value_out_of_range_is_refused_by_name(name, text):
    with pytest.raises(InvalidArgument, match=name):
        ModelConfig.build({name: text}, {})


def test_what_is_not_the_default_comes_back_from_its_texts():
    config = ModelConfig(prefix_cache=False, priority_ageing_s=2.5, kv_cache_gib=0.5, block_size=8)
    parameters = config.to_parameters()
    assert set(parameters) == {"prefix_cache", "priority_ageing_s", "kv_cache_gib", "block_size"}
    assert ModelConfig.build(parameters, {}) == config
