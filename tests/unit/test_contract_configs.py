from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from tritonlm.contract import MODELS, Tensor

ROOT = Path(__file__).resolve().parents[2]
PATHS = {path.parent.name: path for folder in ("model_repository", "ensembles")
         for path in ROOT.glob(f"{folder}/*/config.pbtxt")}
DTYPES = {"TYPE_STRING": "BYTES"}
CHAIN = ["tokenize", "generate", "detokenize"]
every_model = pytest.mark.parametrize("name", MODELS)


def read(name):
    return text_format.Parse(PATHS[name].read_text(), model_config_pb2.ModelConfig())


def tensors(fields, is_input):
    types = model_config_pb2.DataType
    return tuple(
        Tensor(field.name, DTYPES.get(types.Name(field.data_type),
                                      types.Name(field.data_type).removeprefix("TYPE_")),
               tuple(field.dims), field.optional if is_input else False)
        for field in fields)


def test_every_model_has_a_config():
    assert MODELS.keys() <= PATHS.keys()


@every_model
def test_inputs_and_outputs_are_those_of_the_contract(name):
    config = read(name)
    assert config.name == name
    assert tensors(config.input, is_input=True) == MODELS[name].inputs
    assert tensors(config.output, is_input=False) == MODELS[name].outputs


@every_model
def test_every_tensor_has_a_batch_dimension(name):
    assert read(name).max_batch_size > 0


def test_a_model_that_streams_is_decoupled():
    python_models = [name for name in MODELS if read(name).backend == "python"]
    assert {*python_models} == {*CHAIN, "complete"}
    for name in python_models:
        assert read(name).model_transaction_policy.decoupled == MODELS[name].is_decoupled


def test_python_models_load_without_a_gpu():
    for name in (*CHAIN, "complete"):
        [group] = read(name).instance_group
        assert group.kind == model_config_pb2.ModelInstanceGroup.KIND_CPU


def test_complete_uses_the_engines_of_generate():
    assert read("complete").parameters["engines_of"].string_value == "generate"


def test_one_instance_of_detokenize_keeps_the_order():
    assert [group.count for group in read("detokenize").instance_group] == [1]


def test_the_ensemble_is_the_chain():
    config = read("text_generation")
    assert config.platform == "ensemble"
    assert [step.model_name for step in config.ensemble_scheduling.step] == CHAIN


def test_the_ensembles_maps_connect_tensors_of_one_name_and_type():
    inputs = MODELS["text_generation"].inputs
    known = {tensor.name: (tensor.dtype, tensor.dims) for tensor in inputs}
    made = set()
    for step in read("text_generation").ensemble_scheduling.step:
        inputs = {tensor.name: tensor for tensor in MODELS[step.model_name].inputs}
        outputs = {tensor.name: tensor for tensor in MODELS[step.model_name].outputs}
        for name, value in step.input_map.items():
            assert name == value
            assert known[value] == (inputs[name].dtype, inputs[name].dims)
        for name, value in step.output_map.items():
            assert name == value
            assert value not in made
            made.add(value)
            known[value] = (outputs[name].dtype, outputs[name].dims)
    assert {tensor.name for tensor in MODELS["text_generation"].outputs} <= made


def test_the_ensemble_hands_on_every_input():
    steps = read("text_generation").ensemble_scheduling.step
    taken = {step.model_name: set(step.input_map) for step in steps}
    for step in CHAIN:
        names = {tensor.name for tensor in MODELS[step].inputs}
        prompt = {"text_input", "messages"} if step == "generate" else set()
        assert taken[step] == names - prompt


def test_the_text_comes_from_detokenize_and_nothing_is_made_for_nobody():
    steps = read("text_generation").ensemble_scheduling.step
    outputs = {tensor.name for tensor in MODELS["text_generation"].outputs}
    used = outputs.union(*(step.input_map.values() for step in steps))
    for step in steps:
        assert set(step.output_map.values()) <= used
    assert dict(steps[2].output_map) == {"text_output": "text_output"}
