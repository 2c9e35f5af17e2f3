"""Many prompts in one request, files of requests, and what the gateway keeps in a real Redis."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import openai
import pytest
import tritonclient.grpc.aio as grpcclient
from inference import responses, stream, tensor
from tests.drills.waiting import until
from tests.integration.gateway import address_of, get, running_gateway
from tests.metrics import samples, settled
from tests.running_redis import running_redis
from tests.task_checkpoints import save_embedder
from tritonclient.utils import InferenceServerException

PROMPTS = ["ROMEO:\n", "JULIET:\nO ", "First Citizen:\n", "A",
           "What say you to that, my good lord?"]
DOCS = Path(__file__).parents[2] / "docs"
COMMAND = str(Path(sys.executable).parent / "tritonlm")


@pytest.fixture(scope="module")
def server(start_server, tmp_path_factory):
    embedder = save_embedder(tmp_path_factory.mktemp("embed"))
    return start_server(response_cache_mib=4, embed_model=str(embedder))


@pytest.fixture
async def client(server):
    async with grpcclient.InferenceServerClient(server.grpc_url) as client:
        yield client


def column(values, dtype=np.object_):
    """A row for each value."""
    return np.array([[value.encode() if isinstance(value, str) else value] for value in values],
                    dtype)


def batch_of(prompts, **options):
    """Inputs of several rows; an option has a value for each, or one for all."""
    dtypes = {"max_tokens": np.int32, "temperature": np.float32, "seed": np.uint64,
              "ignore_eos": np.bool_, "stream": np.bool_}
    values = {name: value if isinstance(value, list) else [value] * len(prompts)
              for name, value in options.items()}
    return {"text_input": column(prompts), **{
        name: column(row, dtypes[name]) for name, row in values.items()}}


async def complete(client, **inputs):
    result = await client.infer("complete", [tensor(*item) for item in inputs.items()])
    return {output.name: result.as_numpy(output.name)
            for output in result.get_response().outputs}


async def test_a_batch_is_answered_in_order_as_each_prompt_alone(client):
    asked = batch_of(PROMPTS, max_tokens=[3, 40, 12, 1, 25], seed=[1, 2, 3, 4, 5])
    whole = await complete(client, **asked)
    assert whole["text_output"].shape == (5, 1)
    for place in range(5):
        alone = await stream(client, "generate",
                             {name: rows[place : place + 1] for name, rows in asked.items()})
        assert whole["text_output"][place, 0].decode() == alone.text
        num_ids = whole["num_output_tokens"][place, 0]
        ids = whole["output_ids"][place]
        assert ids[:num_ids].tolist() == alone.token_ids
        assert set(ids[num_ids:].tolist()) <= {-1}
        assert whole["num_input_tokens"][place, 0] == alone.num_input_tokens


async def test_ids_of_different_lengths_are_filled_up(client):
    rows = [[300, 301, 302, 303], [304, 305]]
    padded = np.array([rows[0], [*rows[1], -1, -1]], np.int32)
    whole = await complete(client, input_ids=padded, temperature=column([0, 0], np.float32),
                           max_tokens=column([8, 8], np.int32))
    for place, ids in enumerate(rows):
        alone = await complete(client, input_ids=np.array([ids], np.int32), max_tokens=8,
                               temperature=0.0)
        assert whole["text_output"][place] == alone["text_output"][0]
        assert whole["num_input_tokens"][place, 0] == len(ids)


async def test_generate_answers_as_each_prompt_ends(client):
    asked = batch_of(PROMPTS[:3], max_tokens=[400, 2, 150], temperature=0.0, ignore_eos=True)
    got = [(result.as_numpy("prompt_index").item(), result.as_numpy("text_output").item().decode())
           async for result, error in responses(
               client, "generate", asked, outputs=("prompt_index", "text_output")) if not error]
    assert [index for index, _ in got] == [1, 2, 0]
    whole = await complete(client, **asked)
    assert dict(got) == dict(enumerate(text.decode() for text in whole["text_output"][:, 0]))


async def test_the_chunks_of_a_batch_say_of_which_prompt_they_are(client):
    asked = batch_of(PROMPTS, max_tokens=12, temperature=0.0)
    texts, reasons = [""] * 5, [""] * 5
    async for result, error in responses(
            client, "generate", asked | {"stream": column([True] * 5, np.bool_)},
            outputs=("prompt_index", "text_output", "finish_reason")):
        assert error is None
        place = result.as_numpy("prompt_index").item()
        assert not reasons[place]
        texts[place] += result.as_numpy("text_output").item().decode()
        reasons[place] = result.as_numpy("finish_reason").item().decode()
    assert all(reasons)
    whole = await complete(client, **asked)
    assert texts == [text.decode() for text in whole["text_output"][:, 0]]


async def test_the_largest_batch_is_answered_and_a_larger_one_refused(client):
    prompts = [f"Act {number}." for number in range(1025)]
    whole = await complete(client, **batch_of(prompts[:1024], max_tokens=2, temperature=0.0))
    assert whole["text_output"].shape == (1024, 1)
    alone = await complete(client, text_input=prompts[1000], max_tokens=2, temperature=0.0)
    assert whole["text_output"][1000] == alone["text_output"][0]
    with pytest.raises(InferenceServerException, match="batch-size must be <= 1024"):
        await complete(client, **batch_of(prompts, max_tokens=2))


@pytest.mark.parametrize("model", ["generate", "complete"])
async def test_one_bad_prompt_is_named(client, model):
    asked = batch_of(PROMPTS, max_tokens=[5, 5, 100_000, 5, 5])
    errors = [str(error) async for _, error in responses(client, model, asked) if error]
    assert len(errors) == 1
    assert "INVALID_ARG: prompt 2: max_tokens: 100000 is not allowed; allowed: 1 to" in errors[0]
    asked = batch_of(["a", "", "b"])
    errors = [str(error) async for _, error in responses(client, model, asked) if error]
    assert "INVALID_ARG: prompt 1: text_input: '' is not allowed" in errors[0]


async def test_all_prompts_of_a_client_that_leaves_are_given_up(server):
    def num_cancelled():
        return sum(value for labels, value in samples(
            server.metrics_url, "tritonlm_requests_total") if labels["reason"] == "cancelled")
    asked = batch_of(PROMPTS * 4, max_tokens=900, ignore_eos=True, stream=True)
    before = num_cancelled()
    async with grpcclient.InferenceServerClient(server.grpc_url) as leaving:
        await responses(leaving, "generate", asked).__anext__()
    await until(lambda: num_cancelled() == before + 20, num_cancelled)


async def test_a_batch_is_kept_in_tritons_cache(server, client):
    def num_computed():
        return sum(value for labels, value in samples(
            server.metrics_url, "tritonlm_requests_total") if labels["model"] == "complete")
    asked = batch_of(["Once", "more"], max_tokens=5, seed=7)
    before = await settled(num_computed)
    first, second = [await complete(client, **asked) for _ in range(2)]
    assert first["text_output"].tolist() == second["text_output"].tolist()
    assert await settled(num_computed) == before + 2


async def test_embeddings_are_kept_in_tritons_cache(server, client):
    def num_hits():
        return sum(value for labels, value in samples(
            server.metrics_url, "nv_cache_num_hits_per_model") if labels["model"] == "embed")

    before, vectors = num_hits(), []
    for _ in range(2):
        texts = column(["the cat", "sat on the mat"])
        answer = await client.infer("embed", [tensor("text_input", texts)])
        vectors.append(answer.as_numpy("embedding"))
    assert np.array_equal(*vectors)
    await until(lambda: num_hits() == before + 1, num_hits)


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory):
    if shutil.which("redis-server") is None:
        pytest.skip("needs redis-server: apt-get install redis-server")
    with running_redis(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(scope="module")
def url(server, redis_url):
    with running_gateway(address_of(server), "--cache-mib", "8", "--cache-redis",
                         redis_url) as url:
        yield url


def test_a_batch_file_is_answered_as_the_sdk_is(url, tmp_path):
    bodies = [{"model": "generate", "prompt": prompt, "max_tokens": 8, "seed": 3}
              for prompt in PROMPTS] + [{"model": "generate", "prompt": "A", "max_tokens": 0}]
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(
        {"custom_id": str(number), "method": "POST", "url": "/v1/completions", "body": body}) + "\n"
        for number, body in enumerate(bodies)))
    done = subprocess.run([COMMAND, "batch", source, target, "--url", url], check=False,
                          capture_output=True, text=True)
    assert done.returncode == 1
    assert "6 of 6 lines done, 1 of them failed, 40 tokens" in done.stderr
    answers = {answer["custom_id"]: answer for answer in map(
        json.loads, target.read_text().splitlines())}
    assert answers["5"]["response"]["status_code"] == 400
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    for number, body in enumerate(bodies[:5]):
        expected = client.completions.create(**body, extra_body={"cache": False})
        got = answers[str(number)]["response"]["body"]
        assert got["choices"][0]["text"] == expected.choices[0].text
        assert got["usage"] == expected.usage.model_dump(exclude_none=True)


def test_a_batch_file_may_ask_for_all_that_the_gateway_answers_once(url, tmp_path):
    bodies = {"completions": {"model": "generate", "prompt": "A", "max_tokens": 2},
              "chat/completions": {"model": "generate", "max_tokens": 3, "messages": [
                  {"role": "user", "content": "Who?"}]},
              "responses": {"model": "generate", "input": "Who?", "max_output_tokens": 4},
              "embeddings": {"model": "embed", "input": "the cat"},
              "rerank": {"model": "none", "query": "a", "documents": ["b"]},
              "classify": {"model": "none", "input": "a"}}
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({
        "custom_id": path, "method": "POST", "url": f"/v1/{path}",
        "body": body | {"ignore_eos": True} if "max" in str(body) else body}) + "\n"
        for path, body in bodies.items()))
    done = subprocess.run([COMMAND, "batch", source, target, "--url", url], check=False,
                          capture_output=True, text=True)
    answers = {answer["custom_id"]: answer["response"] for answer in map(
        json.loads, target.read_text().splitlines())}
    assert {path: answer["status_code"] for path, answer in answers.items()} == {
        path: 404 if body["model"] == "none" else 200 for path, body in bodies.items()}
    num_read = answers["embeddings"]["body"]["usage"]["prompt_tokens"]
    assert f"6 of 6 lines done, 2 of them failed, {2 + 3 + 4 + num_read} tokens" in done.stderr


def test_the_examples_of_the_document_run(server, url, tmp_path):
    text = (DOCS / "batches.md").read_text()
    examples = dict(re.findall(r"^```(python|sh)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))
    environ = os.environ | {"PATH": f"{Path(COMMAND).parent}{os.pathsep}{os.environ['PATH']}"}
    for command, source in (([sys.executable, "-c"], examples["python"]),
                            (["sh", "-e", "-c"], examples["sh"])):
        here = source.replace("localhost:8001", server.grpc_url)
        done = subprocess.run([*command, here.replace("http://localhost:9000", url)], check=False,
                              cwd=tmp_path, env=environ, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.jsonl").read_text().count('"status_code":200') == 2


def test_gateways_share_a_redis(server, url, redis_url):
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    chat = {"model": "generate", "messages": [{"role": "user", "content": "Who?"}], "seed": 1,
            "max_tokens": 12}
    first = client.chat.completions.with_raw_response.create(**chat)
    assert first.headers["x-tritonlm-cache"] == "miss"
    with running_gateway(address_of(server), "--cache-redis", redis_url) as other:
        client = openai.OpenAI(base_url=f"{other}/v1", api_key="none")
        second = client.chat.completions.with_raw_response.create(**chat)
        assert second.headers["x-tritonlm-cache"] == "hit"
        assert second.parse().choices == first.parse().choices
        assert second.parse().usage == first.parse().usage
        assert b'cache_lookups_total{level="redis",outcome="hit"} 1.0' in get(f"{other}/metrics")[1]
