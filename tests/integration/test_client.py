"""The client on a real tritonserver; tritonclient's own streams are the reference."""

import asyncio
import json
import queue
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
from tests.drills.load import counted
from tests.drills.waiting import LIMIT_S, until
from tests.metrics import settled

from tritonlm.contract import MODELS
from tritonlm_client import (
    AsyncClient,
    Client,
    Completion,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    Unavailable,
)

PROMPT = "ROMEO:\nO, "
MESSAGES = [{"role": "user", "content": "Who goes there?"}]
IDS = [10, 200, 31, 7]
INPUTS = [
    (PROMPT, "text_input", np.array([[PROMPT.encode()]], np.object_), "BYTES"),
    (MESSAGES, "messages", np.array([[json.dumps(MESSAGES).encode()]], np.object_), "BYTES"),
    (IDS, "input_ids", np.array([IDS], np.int32), "INT32"),
]
INPUT_NAMES = [name for _, name, _, _ in INPUTS]
LONG = {"max_tokens": 800, "ignore_eos": True}


@pytest.fixture(scope="module")
def url(demo_server):
    return demo_server.grpc_url


@pytest.fixture
def client(url):
    with Client(url) as client:
        yield client


@pytest.fixture
async def until_ended(demo_server):
    """`await until_ended(number)`: so many requests have been given up since the test began."""
    def num_ended():
        counts = counted(demo_server.metrics_url)
        return counts["cancelled"] + counts["deadline"]

    before = await settled(num_ended)
    return lambda number: until(lambda: num_ended() == before + number,
                                lambda: f"{num_ended() - before}, not {number}")


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


@pytest.mark.parametrize("model", ["generate", "text_generation"])
def test_a_request_is_cancelled_by_its_id(url, model):
    with Client(url, model) as client, Client(url, model) as other:
        stream = client.stream(PROMPT, **LONG)
        chunks = []
        for chunk in stream:
            chunks.append(chunk)
            if chunk.index == 3:
                assert other.cancel(stream.request_id)
        assert chunks[-1].finish_reason == "cancelled"
        assert chunks[-1].num_output_tokens < LONG["max_tokens"]
        assert not other.cancel(stream.request_id)


@pytest.mark.parametrize("model", ["generate", "text_generation"])
async def test_a_hang_up_ends_the_request(url, model, until_ended):
    with Client(url, model) as client:
        read_on, abandoned = (client.stream(PROMPT, **LONG) for _ in range(2))
        for _ in abandoned:
            break
        await until_ended(1)
        assert list(read_on)[-1].finish_reason == "length"


@pytest.mark.parametrize("model", ["generate", "text_generation"])
async def test_a_cancelled_task_ends_the_request(url, model, until_ended):
    async with AsyncClient(url, model) as client:
        has_begun = asyncio.Event()

        async def read():
            async for _ in client.stream(PROMPT, **LONG):
                has_begun.set()

        task = asyncio.create_task(read())
        beside = asyncio.create_task(client.generate(PROMPT, **LONG))
        await has_begun.wait()
        task.cancel()
        await asyncio.wait([task])
        await until_ended(1)
        assert (await beside).finish_reason == "length"


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


async def test_a_deadline_ends_the_call_and_the_request(client, until_ended):
    with pytest.raises(Unavailable, match="Deadline"):
        client.generate(PROMPT, timeout_s=0.5, **LONG)
    await until_ended(1)


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


class Sync:
    def chunks(self, url, prompt, **options):
        with Client(url) as client:
            return list(client.stream(prompt, **options))

    def call(self, url, method, *args, **options):
        with Client(url) as client:
            return getattr(client, method)(*args, **options)


class Async:
    def chunks(self, url, prompt, **options):
        async def read():
            async with AsyncClient(url) as client:
                return [chunk async for chunk in client.stream(prompt, **options)]
        return asyncio.run(read())

    def call(self, url, method, *args, **options):
        async def call():
            async with AsyncClient(url) as client:
                return await getattr(client, method)(*args, **options)
        return asyncio.run(call())


@pytest.fixture(params=[Sync, Async])
def api(request):
    return request.param()


@pytest.fixture
def http_url(demo_server):
    return demo_server.http_url


@pytest.mark.parametrize("prompt", [PROMPT, MESSAGES, IDS], ids=INPUT_NAMES)
@pytest.mark.parametrize("options", [
    {}, {"n": 2, "seed": 5, "temperature": 1.0, "logprobs": 2, "prompt_logprobs": 0},
    {"logit_bias": {5: -100}, "stop": [".", "!"], "stop_token_ids": [7], "bad_words": ["king"]},
])
def test_over_http_an_answer_is_the_same(api, url, http_url, prompt, options):
    options = {"max_tokens": 12, "temperature": 0, "request_id": "mine", **options}
    assert api.call(http_url, "generate", prompt, **options) == api.call(
        url, "generate", prompt, **options)
    streamed, reference = (Completion.join("", api.chunks(each, prompt, **options))
                           for each in (http_url, url))
    assert streamed == reference


def test_over_http_models_are_the_same(api, url, http_url):
    told = api.call(http_url, "models")
    assert sorted(told, key=lambda model: model.name) == sorted(
        api.call(url, "models"), key=lambda model: model.name)
    assert api.call(http_url, "is_live")
    assert api.call(http_url, "is_ready")


def test_over_http_errors_are_the_same(api, http_url):
    with pytest.raises(InvalidArgument) as caught:
        api.call(http_url, "generate", PROMPT, max_tokens=10**6)
    assert caught.value.field == "max_tokens"
    with pytest.raises(DeadlineExceeded):
        api.call(http_url, "generate", PROMPT, timeout_s=0.1, **LONG)


@pytest.mark.parametrize("model", ["generate", "text_generation"])
async def test_over_http_a_hang_up_ends_the_request(http_url, model, until_ended):
    with Client(http_url, model) as client:
        for _ in client.stream(PROMPT, **LONG):
            break
        await until_ended(1)
        stream = client.stream(PROMPT, **LONG)
        chunks = iter(stream)
        next(chunks)
        threading.Thread(target=stream.cancel).start()
        assert len(list(chunks)) < 799
        await until_ended(2)


async def test_over_http_a_cancel_from_another_task_ends_the_request(http_url, until_ended):
    async with AsyncClient(http_url) as client:
        stream = client.stream(PROMPT, **LONG)
        chunks = aiter(stream)
        await anext(chunks)
        canceller = asyncio.create_task(stream.cancel())
        assert len([chunk async for chunk in chunks]) < 799
        await canceller
        await until_ended(1)

class Door:
    """A further port of a server, until it is shut: as if that server were lost then."""

    def __init__(self, url):
        self._url = url
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._listener]
        self._lets_answers_through = threading.Event()
        self._lets_answers_through.set()
        self.url = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._url.split(":"))
                self._sockets += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(source, sink, sink is near),
                                     daemon=True).start()

    def _pump(self, source, sink, is_answer):
        with suppress(OSError):
            while data := source.recv(65536):
                if is_answer:
                    self._lets_answers_through.wait()
                sink.sendall(data)

    def hold_answers(self):
        """From now on requests come in and nothing goes out."""
        self._lets_answers_through.clear()

    def shut(self):
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._lets_answers_through.set()


def test_what_a_lost_server_has_not_begun_another_one_answers(url, client):
    door = Door(url)
    greedy = {"max_tokens": 12, "temperature": 0}
    expected = client.generate(PROMPT, **greedy).text
    with Client([door.url, url], policy="batch") as both:
        streams = [both.stream(PROMPT, **LONG) for _ in range(8)]
        begun = [iter(stream) for stream in streams]
        for chunks in begun:
            next(chunks)
        door.hold_answers()
        waiting = [both.stream(PROMPT, **greedy) for _ in range(8)]
        door.shut()
        assert ["".join(chunk.text for chunk in stream) for stream in waiting] == [expected] * 8
        assert [both.generate(PROMPT, **greedy).text for _ in range(8)] == [expected] * 8
        ends = []
        for chunks in begun:
            try:
                ends.append(list(chunks)[-1].finish_reason)
            except Unavailable:
                ends.append("lost")
        assert sorted(ends) == ["length"] * 4 + ["lost"] * 4


def command(url, *args):
    return [sys.executable, "-c", "from tritonlm.cli import app; app()", *args, "--url", url]


def test_the_command_prints_the_answer(url, client):
    args = ["generate", PROMPT, "--max-tokens", "12", "--temperature", "0"]
    done = subprocess.run(command(url, *args), capture_output=True, check=True, timeout=60)
    assert done.stdout.decode() == client.generate(PROMPT, max_tokens=12, temperature=0).text


def test_ctrl_c_ends_the_command(url):
    with subprocess.Popen(command(url, "generate", PROMPT, "--max-tokens", "800"),
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT_S) == 130
        assert process.stderr.read() == b""


def test_a_prompt_that_is_too_long_for_a_chat_is_explained(url):
    done = subprocess.run(command(url, "chat"), input=b"word " * 3000 + b"\n", capture_output=True,
                          check=True, timeout=60)
    assert b"/reset" in done.stderr
    assert b"prompt: " in done.stderr


def test_health_is_good(url):
    done = subprocess.run(command(url, "health", "--json"), capture_output=True, check=True,
                          timeout=60)
    assert json.loads(done.stdout)["is_healthy"]
