"""The client on a real tritonserver; tritonclient's own streams are the reference."""

import json
import queue
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio

from tritonlm.contract import MODELS
from tritonlm_client import AsyncClient, Client, InvalidArgument, NotFound

PROMPT = "ROMEO:\nO, "
MESSAGES = [{"role": "user", "content": "Who goes there?"}]
IDS = [10, 200, 31, 7]
INPUTS = [
    (PROMPT, "text_input", np.array([[PROMPT.encode()]], np.object_), "BYTES"),
    (MESSAGES, "messages", np.array([[json.dumps(MESSAGES).encode()]], np.object_), "BYTES"),
    (IDS, "input_ids", np.array([IDS], np.int32), "INT32"),
]
INPUT_NAMES = [name for _, name, _, _ in INPUTS]


@pytest.fixture
def client(url):
    with Client(url) as client:
        yield client


def reference_inputs(name, values, dtype):
    """The same request in tritonclient's words: 12 tokens, greedy, streamed."""
    tensors = [(name, values, dtype), ("max_tokens", np.array([[12]], np.int32), "INT32"),
               ("temperature", np.array([[0]], np.float32), "FP32"),
               ("stream", np.array([[True]]), "BOOL")]
    inputs = []
    for tensor_name, array, triton_type in tensors:
        tensor = tritonclient.grpc.InferInput(tensor_name, array.shape, triton_type)
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return inputs


def reference_answer(results):
    text = b"".join(result.as_numpy("text_output").item() for result in results)
    ids = [i for result in results for i in result.as_numpy("output_ids").ravel().tolist()]
    return text.decode(), tuple(ids), results[-1].as_numpy("finish_reason").item().decode()


def is_final(result):
    return result.get_response().parameters["triton_final_response"].bool_param


OUTPUTS = [tritonclient.grpc.InferRequestedOutput(name)
           for name in ("text_output", "output_ids", "finish_reason")]


def tritonclient_answer(url, inputs):
    arrived: queue.Queue = queue.Queue()
    results = []
    with tritonclient.grpc.InferenceServerClient(url) as reference:
        reference.start_stream(lambda result, error: arrived.put((result, error)))
        reference.async_stream_infer("generate", inputs, outputs=OUTPUTS,
                                     enable_empty_final_response=True)
        while not (results and is_final(results[-1])):
            result, error = arrived.get(timeout=30)
            assert error is None
            results.append(result)
    return reference_answer([result for result in results if result.get_response().outputs])


async def async_tritonclient_answer(url, inputs):
    async def requests():
        yield {"model_name": "generate", "inputs": inputs, "outputs": OUTPUTS}

    async with tritonclient.grpc.aio.InferenceServerClient(url) as reference:
        results = []
        async for result, error in reference.stream_infer(requests()):
            assert error is None
            results.append(result)
    return reference_answer(results)


@pytest.mark.parametrize(("prompt", "name", "values", "dtype"), INPUTS, ids=INPUT_NAMES)
def test_a_stream_is_what_tritonclient_gets(url, client, prompt, name, values, dtype):
    chunks = list(client.stream(prompt, max_tokens=12, temperature=0))
    ours = ("".join(chunk.text for chunk in chunks),
            tuple(i for chunk in chunks for i in chunk.token_ids), chunks[-1].finish_reason)
    assert ours == tritonclient_answer(url, reference_inputs(name, values, dtype))
    assert ours[1]


@pytest.mark.parametrize(("prompt", "name", "values", "dtype"), INPUTS, ids=INPUT_NAMES)
async def test_an_async_answer_is_what_tritonclient_gets(url, prompt, name, values, dtype):
    async with AsyncClient(url) as client:
        answer = await client.generate(prompt, max_tokens=12, temperature=0)
    expected = await async_tritonclient_answer(url, reference_inputs(name, values, dtype))
    assert (answer.text, answer.token_ids, answer.finish_reason) == expected


def test_a_stream_is_the_whole_answer_in_order(client):
    answer = client.generate(PROMPT, max_tokens=40, seed=3, request_id="mine")
    chunks = list(client.stream(PROMPT, max_tokens=40, seed=3))
    assert len(chunks) > 1
    assert "".join(chunk.text for chunk in chunks) == answer.text
    assert tuple(i for chunk in chunks for i in chunk.token_ids) == answer.token_ids
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [""] * (len(chunks) - 1)
    assert chunks[-1].finish_reason == answer.finish_reason
    assert chunks[-1].num_output_tokens == answer.num_output_tokens == len(answer.token_ids)
    assert answer.request_id == "mine"


def test_the_ensemble_gives_the_same_answer(url, client):
    with Client(url, "text_generation") as ensemble:
        for prompt in (PROMPT, MESSAGES):
            chunks = list(ensemble.stream(prompt, max_tokens=12, temperature=0))
            answer = client.generate(prompt, max_tokens=12, temperature=0)
            assert "".join(chunk.text for chunk in chunks) == answer.text
            assert chunks[-1].num_output_tokens == answer.num_output_tokens


def test_options_reach_the_model(client):
    answer = client.generate(PROMPT, max_tokens=5, ignore_eos=True, return_finish_reason=False,
                             return_num_input_tokens=False)
    assert (answer.num_output_tokens, len(answer.token_ids)) == (5, 5)
    assert (answer.finish_reason, answer.num_input_tokens) == ("", None)
    whole = client.generate(PROMPT, max_tokens=40, temperature=0)
    stop = whole.text[8:11]
    stopped = client.generate(PROMPT, max_tokens=40, temperature=0, stop=[stop])
    assert stopped.text == whole.text[: whole.text.index(stop)]
    assert stopped.finish_reason == "stop"


def test_one_client_runs_many_streams(client):
    prompts = [f"Speech {number}:" for number in range(8)]

    def read(prompt):
        return [i for chunk in client.stream(prompt, max_tokens=8, temperature=0)
                for i in chunk.token_ids]

    alone = [read(prompt) for prompt in prompts]
    with ThreadPoolExecutor(len(prompts)) as pool:
        assert list(pool.map(read, prompts)) == alone


def test_what_the_server_refuses_is_named(url, client):
    with pytest.raises(InvalidArgument) as caught:
        client.generate(PROMPT, max_tokens=10**6)
    assert caught.value.field == "max_tokens"
    with pytest.raises(InvalidArgument) as caught:
        client.generate([10**6])
    assert caught.value.field == "input_ids"


def test_what_is_refused_inside_the_ensemble_is_named(url):
    with Client(url, "text_generation") as ensemble, pytest.raises(InvalidArgument) as caught:
        ensemble.generate(PROMPT, max_tokens=10**6)
    assert caught.value.field == "max_tokens"


def test_what_triton_refuses_has_a_class_too(url):
    with Client(url, "nothing") as client, pytest.raises(NotFound, match="nothing"):
        client.generate(PROMPT)
    with Client(url, "text_generation") as ensemble, \
            pytest.raises(InvalidArgument, match="input_ids"):
        ensemble.generate(IDS)


def test_models_are_those_of_the_contract(client):
    found = {model.name: model for model in client.models()}
    assert set(found) >= set(MODELS)
    for name, model in MODELS.items():
        assert found[name].is_ready
        assert set(found[name].inputs) == set(model.inputs)
        assert {tensor.name for tensor in found[name].outputs} == {
            tensor.name for tensor in model.outputs}
        assert found[name].is_decoupled == model.is_decoupled


def test_readiness_is_that_of_server_and_model(url, client):
    assert client.is_live()
    assert client.is_ready()
    with Client(url, "nothing") as nothing:
        assert not nothing.is_ready()
