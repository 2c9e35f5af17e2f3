import json

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from tritonlm.config import ModelConfig
from tritonlm.errors import StartFailure
from tritonlm.server import repository

PYTHON_MODEL = 'name: "%s" backend: "python" max_batch_size: 8'
ENSEMBLE = 'name: "chain" platform: "ensemble" max_batch_size: 8'


@pytest.fixture
def sources(tmp_path):
    """Two repositories as they are in the checkout: Python models, and an ensemble of them."""
    for path, config in (("models/generate", PYTHON_MODEL % "generate"),
                         ("models/tokenize", PYTHON_MODEL % "tokenize"),
                         ("ensembles/chain", ENSEMBLE)):
        (tmp_path / path / "1" / "__pycache__").mkdir(parents=True)
        (tmp_path / path / "1" / "model.py").write_text("# the model\n")
        (tmp_path / path / "config.pbtxt").write_text(config)
    return tmp_path / "models", tmp_path / "ensembles"


def read(copy, model):
    return text_format.Parse((copy / model / "config.pbtxt").read_text(),
                             model_config_pb2.ModelConfig())


def test_every_python_model_gets_the_settings(sources, tmp_path):
    config = ModelConfig(model="/a model", max_num_seqs=7, kv_cache_gib=0.5)
    models, ensembles = repository.render(sources, tmp_path / "run", config.to_parameters(), 3)
    for name in ("generate", "tokenize"):
        parameters = {k: v.string_value for k, v in read(models, name).parameters.items()}
        args = {"model_config": json.dumps({"parameters": {
            k: {"string_value": v} for k, v in parameters.items()}})}
        assert ModelConfig.from_triton(args) == config
    assert not read(ensembles, "chain").parameters


def test_the_front_end_alone_gets_the_instances(sources, tmp_path):
    models, _ = repository.render(sources, tmp_path / "run", {}, 3)
    assert [group.count for group in read(models, "generate").instance_group] == [3]
    assert not read(models, "tokenize").instance_group


def test_a_cache_is_used_by_the_models_that_have_a_setting_for_it(sources, tmp_path):
    with (sources[0] / "generate" / "config.pbtxt").open("a") as config:
        config.write("\nresponse_cache { enable: false }")
    for has_cache in (False, True):
        models, _ = repository.render(sources, tmp_path / str(has_cache), {}, 1, has_cache)
        assert read(models, "generate").response_cache.enable is has_cache
        assert not read(models, "tokenize").HasField("response_cache")


def test_an_instance_group_keeps_its_kind(sources, tmp_path):
    config = sources[0] / "generate" / "config.pbtxt"
    config.write_text(config.read_text() + " instance_group [{ count: 1 kind: KIND_CPU }]")
    models, _ = repository.render(sources, tmp_path / "run", {}, 2)
    [group] = read(models, "generate").instance_group
    assert (group.count, group.kind) == (2, model_config_pb2.ModelInstanceGroup.KIND_CPU)


def test_the_models_are_copied_and_the_sources_left_alone(sources, tmp_path):
    before = (sources[0] / "generate" / "config.pbtxt").read_text()
    models, ensembles = repository.render(sources, tmp_path / "run", {"device": "cpu"}, 2)
    assert (models / "generate" / "1" / "model.py").read_text() == "# the model\n"
    assert not (models / "generate" / "1" / "__pycache__").exists()
    assert (ensembles / "chain" / "1").is_dir()
    assert (sources[0] / "generate" / "config.pbtxt").read_text() == before


def test_a_repository_without_models_is_named(tmp_path):
    with pytest.raises(StartFailure, match=f"^there are no models in {tmp_path}/none$"):
        repository.render((tmp_path / "none",), tmp_path / "run", {}, 1)


@pytest.mark.parametrize("text", ['name: "x" unknown_field: 1', None])
def test_a_config_that_cannot_be_read_is_named(sources, tmp_path, text):
    path = sources[0] / "tokenize" / "config.pbtxt"
    path.unlink()
    if text:
        path.write_text(text)
    with pytest.raises(StartFailure, match=f"^{path} cannot be read: "):
        repository.render(sources, tmp_path / "run", {}, 1)
