import json
import os
import subprocess
import sys

import numpy as np
import pytest
from model_hub import NAME, model_hub
from safetensors.numpy import save_file

from tritonlm.errors import InvalidArgument
from tritonlm.server import checkpoint


@pytest.fixture
def folder(tmp_path):
    """What a checkpoint must have for the look at its files."""
    write_config(tmp_path, architectures=["LlamaForCausalLM"], model_type="llama")
    save_file({"weight": np.zeros(2, np.float32)}, tmp_path / "model.safetensors")
    (tmp_path / "tokenizer.json").write_text("{}")
    return tmp_path


def write_config(folder, **values):
    (folder / "config.json").write_text(json.dumps(values))


def refusal(name, revision=None):
    with pytest.raises(InvalidArgument) as caught:
        checkpoint.resolve(str(name), revision)
    assert "\n" not in caught.value.message
    return caught.value.message


def test_a_whole_checkpoint_is_found_by_its_path(folder, monkeypatch):
    assert checkpoint.resolve(str(folder), None) == folder
    monkeypatch.chdir(folder.parent)
    assert checkpoint.resolve(folder.name, None) == folder


@pytest.mark.parametrize("name", ["/no/such/folder", "./none", "~/none", "a/b/c"])
def test_a_missing_folder_is_named(name):
    assert refusal(name) == f"model: '{name}' is not allowed; there is no such folder"


def test_a_folder_has_no_revision(folder):
    assert refusal(folder, "main").startswith("revision: 'main' is not allowed")


def test_a_missing_config_is_named(folder):
    (folder / "config.json").unlink()
    assert refusal(folder).endswith("it has no config.json")


@pytest.mark.parametrize("text", ["{", "\0", "[1]", '"text"'])
def test_a_corrupt_config_is_named(folder, text):
    (folder / "config.json").write_text(text)
    assert "its config.json " in refusal(folder)


@pytest.mark.parametrize(("config", "shown"), [
    ({"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"},
     "T5ForConditionalGeneration"),
    ({"architectures": ["BertForMaskedLM"], "model_type": "bert"}, "BertForMaskedLM"),
    ({"model_type": "t5"}, "t5"),
    ({}, "model of unknown type"),
])
def test_another_kind_of_model_is_named(folder, config, shown):
    write_config(folder, **config)
    assert refusal(folder).endswith(f"it is a {shown}, not a causal language model")


@pytest.mark.parametrize("config", [
    {"architectures": ["GPT2LMHeadModel"]},
    {"model_type": "llama"},
    {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3"},
])
def test_a_causal_model_is_known_by_architecture_or_type(folder, config):
    write_config(folder, **config)
    checkpoint.check(folder)


def test_missing_weights_are_named(folder):
    (folder / "model.safetensors").unlink()
    assert "it has no weights" in refusal(folder)


def test_older_weights_are_taken(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    checkpoint.check(folder)


def test_cut_off_weights_are_named(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "model.safetensors cannot be read" in refusal(folder)


def test_a_missing_shard_is_named(folder):
    shards = {"a": "model.safetensors", "b": "model-2.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert refusal(folder).endswith("1 of its 2 files of weights are missing, "
                                    "model-2.safetensors first")


def test_a_missing_tokenizer_is_named(folder):
    (folder / "tokenizer.json").unlink()
    assert "it has no tokenizer" in refusal(folder)


def resolve_from_hub(name, address, cache, **environ):
    """What a process with this hub and cache makes of `name`."""
    code = f"from tritonlm.server import checkpoint; print(checkpoint.resolve({name!r}, None))"
    environ = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(cache)} | environ
    return subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True,
                          text=True, check=False)


def test_of_a_hub_model_only_what_is_needed_is_fetched_and_once(folder, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    (folder / "pytorch_model.bin").write_text("the same weights")
    with model_hub(folder) as (address, fetched):
        for environ in ({}, {}, {"HF_HUB_OFFLINE": "1"}):
            found = resolve_from_hub(NAME, address, cache, **environ).stdout.strip()
            assert found.startswith(str(cache))
    assert sorted(fetched) == ["config.json", "model.safetensors", "tokenizer.json"]


def test_of_another_kind_of_hub_model_no_weights_are_fetched(folder, tmp_path_factory):
    write_config(folder, architectures=["BertForMaskedLM"], model_type="bert")
    with model_hub(folder) as (address, fetched):
        done = resolve_from_hub(NAME, address, tmp_path_factory.mktemp("cache"))
    assert done.stderr.strip().endswith(f"model: '{NAME}' is not allowed; it is a BertForMaskedLM, "
                                        "not a causal language model")
    assert fetched == ["config.json"]


def test_a_model_that_the_hub_has_not_is_named(folder, tmp_path_factory):
    with model_hub(folder) as (address, _):
        done = resolve_from_hub("me/none", address, tmp_path_factory.mktemp("cache"))
    assert "model: 'me/none' is not allowed; there is no such folder, and the hub" in done.stderr


def test_a_hub_that_is_not_reached_is_one_line(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert refusal("nobody/nothing").startswith(
        "model: 'nobody/nothing' is not allowed; there is no such folder, and the hub did not")
