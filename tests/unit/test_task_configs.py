"""The models of task_repository are those of the contract."""

from __future__ import annotations

import pytest
from google.protobuf import text_format
from tests.unit.test_contract_configs import tensors
from tritonclient.grpc import model_config_pb2

from tritonlm.contract import TASK_MODELS
from tritonlm.encoders.config import CONFIGS
from tritonlm.server.model_store import ModelStore
from tritonlm.server.repository import TASK_REPOSITORY, TASKS, render_tasks

ENSEMBLES = {"embedding": ["embed_tokenize", "embed"], "reranking": ["rerank_tokenize", "rerank"]}
TEXTS = {"text_input", "query", "document"}
every_model = pytest.mark.parametrize("name", TASK_MODELS)


def read(name):
    return read_config(TASK_REPOSITORY / name)


def read_config(folder):
    return text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


def test_the_repository_has_the_models_of_each_task_and_no_others():
    assert {path.name for path in TASK_REPOSITORY.iterdir()} == TASK_MODELS.keys()
    assert {name for names in TASKS.values() for name in names} == TASK_MODELS.keys()
    assert TASKS.keys() == CONFIGS.keys()


@every_model
def test_inputs_and_outputs_are_those_of_the_contract(name):
    config = read(name)
    assert config.name == name
    assert tensors(config.input, is_input=True) == TASK_MODELS[name].inputs
    assert tensors(config.output, is_input=False) == TASK_MODELS[name].outputs


@every_model
def test_requests_have_up_to_64_rows(name):
    assert read(name).max_batch_size == 64


@pytest.mark.parametrize("name", TASKS)
def test_requests_of_other_lengths_share_a_batch(name):
    config = read(name)
    ragged = {field.name for field in config.input if list(field.dims) == [-1]}
    assert ragged == {field.name for field in config.input if field.allow_ragged_batch}
    assert config.dynamic_batching.preferred_batch_size
    assert config.dynamic_batching.max_queue_delay_microseconds
    assert not config.dynamic_batching.priority_levels


@pytest.mark.parametrize("task", CONFIGS)
def test_a_queue_has_levels_bounds_and_timeouts_if_that_is_asked_for(tmp_path, task):
    render_tasks(tmp_path, [CONFIGS[task](model="/a", queue_policy=True)])
    ModelStore(tmp_path / "store").add("mine", task, CONFIGS[task](model="/a", queue_policy=True))
    for path in (tmp_path / "task_repository" / task, tmp_path / "store" / "mine"):
        batching = read_config(path).dynamic_batching
        assert batching.preferred_batch_size
        assert batching.priority_levels == 4
        policy = batching.default_queue_policy
        assert policy.max_queue_size
        assert policy.default_timeout_microseconds
        assert policy.allow_timeout_override


@pytest.mark.parametrize(("name", "steps"), ENSEMBLES.items())
def test_an_ensemble_connects_tensors_of_one_name(name, steps):
    config = read(name)
    known = {tensor.name for tensor in TASK_MODELS[name].inputs}
    assert [step.model_name for step in config.ensemble_scheduling.step] == steps
    for step in config.ensemble_scheduling.step:
        model = TASK_MODELS[step.model_name]
        assert all(key == value for key, value in (*step.input_map.items(),
                                                   *step.output_map.items()))
        assert set(step.input_map) == known & {tensor.name for tensor in model.inputs}
        known = (known - TEXTS) | set(step.output_map)
    assert {tensor.name for tensor in TASK_MODELS[name].outputs} <= known
