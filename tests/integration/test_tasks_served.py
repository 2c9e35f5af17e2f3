"""Embeddings, reranking and classification on a real server; the reference is transformers."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import openai
import pytest
import torch
import tritonclient.grpc.aio as grpcclient
from inference import tensor
from tests.integration.gateway import address_of, get, post, running_gateway
from tests.metrics import total
from tests.task_checkpoints import save_classifier, save_cross_encoder, save_embedder
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer
from tritonclient.utils import InferenceServerException

TEXTS = ["The cat sat", "on", "Now is the winter of our discontent made glorious", "the dog's mat",
         "the sun of York and the cat and the dog and the mat of the cat"]
QUERY = "where is the cat"
DOCUMENT = Path(__file__).parents[2] / "docs" / "tasks.md"
CLOSE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    return {"embed": save_embedder(folder / "embed"),
            "rerank": save_cross_encoder(folder / "rerank"),
            "classify": save_classifier(folder / "classify", num_labels=3)}


@pytest.fixture(scope="module")
def server(start_server, folders):
    models = {f"{task}_model": str(folder) for task, folder in folders.items()}
    return start_server(front_ends=1, classify_settings='{"queue_policy": true}', **models)


@pytest.fixture
async def client(server):
    async with grpcclient.InferenceServerClient(server.grpc_url) as client:
        yield client


async def infer(client, model, **inputs):
    result = await client.infer(model, [tensor(name, column(value))
                                        for name, value in inputs.items()])
    return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


def column(value):
    """[rows, 1] of a list of texts."""
    if isinstance(value, list):
        return np.array([[text.encode()] for text in value], np.object_)
    return value


@pytest.fixture(scope="module")
def embeddings(folders):
    """Of each text alone."""
    tokenizer = AutoTokenizer.from_pretrained(folders["embed"])
    model = AutoModel.from_pretrained(folders["embed"])
    with torch.inference_mode():
        means = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
                 for text in TEXTS]
    return np.stack([(mean / mean.norm()).numpy() for mean in means])


@pytest.mark.parametrize("model", ["embed", "embedding"])
async def test_many_texts_in_one_request_are_embedded(client, folders, embeddings, model):
    got = await infer(client, model, text_input=TEXTS)
    np.testing.assert_allclose(got["embedding"], embeddings, **CLOSE)
    tokenizer = AutoTokenizer.from_pretrained(folders["embed"])
    assert got["num_input_tokens"].tolist() == [[len(tokenizer.encode(text))] for text in TEXTS]


async def test_token_ids_are_embedded_too(client, folders, embeddings):
    tokenizer = AutoTokenizer.from_pretrained(folders["embed"])
    encoding = tokenizer(TEXTS, padding=True, return_tensors="np")
    lengths = encoding["attention_mask"].sum(1, keepdims=True).astype(np.int32)
    got = await infer(client, "embed", input_ids=encoding["input_ids"].astype(np.int32),
                      num_input_tokens=lengths)
    np.testing.assert_allclose(got["embedding"], embeddings, **CLOSE)


@pytest.mark.parametrize("model", ["embed", "embedding"])
async def test_requests_of_many_clients_are_batched_and_kept_apart(
    server, client, embeddings, model
):
    before = total(server.metrics_url, "tritonlm_task_batches_total")
    got = await asyncio.gather(*(infer(client, model, text_input=[text])
                                 for text in TEXTS for _ in range(8)))
    for place, one in enumerate(got):
        np.testing.assert_allclose(one["embedding"][0], embeddings[place // 8], **CLOSE)
    assert total(server.metrics_url, "tritonlm_task_batches_total") - before < len(got)


@pytest.mark.parametrize("model", ["embed", "embedding"])
async def test_embeddings_are_cut_to_dimensions(client, embeddings, model):
    got = await infer(client, model, text_input=TEXTS[:1],
                      dimensions=np.array([[16]], np.int32))
    cut = embeddings[0, :16]
    np.testing.assert_allclose(got["embedding"][0], cut / np.linalg.norm(cut), **CLOSE)


@pytest.mark.parametrize("model", ["rerank", "reranking"])
async def test_documents_are_scored(client, folders, model):
    got = await infer(client, model, query=[QUERY] * len(TEXTS), document=TEXTS)
    tokenizer = AutoTokenizer.from_pretrained(folders["rerank"])
    reference = AutoModelForSequenceClassification.from_pretrained(folders["rerank"])
    with torch.inference_mode():
        expected = [reference(**tokenizer(QUERY, text, return_tensors="pt")).logits[0].sigmoid()
                    for text in TEXTS]
    np.testing.assert_allclose(got["score"], np.stack(expected), **CLOSE)


async def test_texts_are_classified(client, folders):
    got = await infer(client, "classify", text_input=TEXTS)
    tokenizer = AutoTokenizer.from_pretrained(folders["classify"])
    reference = AutoModelForSequenceClassification.from_pretrained(folders["classify"])
    for labels, scores, text in zip(got["label"], got["score"], TEXTS, strict=True):
        with torch.inference_mode():
            logits = reference(**tokenizer(text, return_tensors="pt")).logits[0]
        places = [reference.config.label2id[label.decode()] for label in labels]
        np.testing.assert_allclose(scores, logits.softmax(0)[places], **CLOSE)


@pytest.mark.parametrize(("model", "inputs", "message"), [
    ("embed", {"dimensions": np.array([[4]], np.int32)}, "inputs: 'nothing'"),
    ("embed", {"text_input": ["word " * 99]}, "allowed: 1 to 64 tokens"),
    ("embedding", {"text_input": ["word " * 99]}, "allowed: 1 to 64 tokens"),
    ("embed", {"text_input": ["a"], "dimensions": np.array([[65]], np.int32)},
     "dimensions: .* allowed: 1 to 64"),
    ("embed", {"input_ids": np.array([[999]], np.int32)}, "input_ids: 999"),
    ("embed", {"text_input": ["a"] * 65}, "batch-size must be <= 64"),
    ("rerank", {"query": ["a"]}, "inputs: 'query'"),
])
async def test_bad_input_is_refused_with_the_reason(client, model, inputs, message):
    with pytest.raises(InferenceServerException, match=message):
        await infer(client, model, **inputs)


async def test_an_error_is_its_own_requests_alone(client, embeddings):
    async def one(text):
        try:
            return await infer(client, "embed", text_input=[text])
        except InferenceServerException as error:
            return str(error)

    got = await asyncio.gather(*(one(text) for text in ["word " * 99, TEXTS[0]] * 4))
    assert all("allowed: 1 to 64 tokens" in error for error in got[::2])
    for answer in got[1::2]:
        np.testing.assert_allclose(answer["embedding"][0], embeddings[0], **CLOSE)


async def test_an_unknown_parameter_is_refused(client):
    with pytest.raises(InferenceServerException, match="pooling: 'cls' is not allowed; unknown"):
        await client.infer("embed", [tensor("text_input", "a")], parameters={"pooling": "cls"})


@pytest.fixture(scope="module")
def url(server):
    with running_gateway(address_of(server), "--model-names", "small=embed") as url:
        yield url


@pytest.fixture(scope="module")
def sdk(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
def test_openais_sdk_embeds_texts(sdk, folders, embeddings, encoding_format):
    got = sdk.embeddings.create(model="small", input=TEXTS, encoding_format=encoding_format)
    vectors = [base64_floats(one.embedding) if encoding_format == "base64" else one.embedding
               for one in got.data]
    np.testing.assert_allclose(vectors, embeddings, **CLOSE)
    assert [one.index for one in got.data] == list(range(len(TEXTS)))
    tokenizer = AutoTokenizer.from_pretrained(folders["embed"])
    num_tokens = sum(len(tokenizer.encode(text)) for text in TEXTS)
    assert (got.usage.prompt_tokens, got.usage.total_tokens) == (num_tokens, num_tokens)
    assert (got.object, got.model) == ("list", "small")


def base64_floats(text):
    return np.frombuffer(base64.b64decode(text), "<f4")


def test_openais_sdk_embeds_token_ids_and_single_texts(sdk, folders, embeddings):
    tokenizer = AutoTokenizer.from_pretrained(folders["embed"])
    ids = [tokenizer.encode(text) for text in TEXTS]
    for given, expected in ((TEXTS[0], embeddings[:1]), (ids[1], embeddings[1:2]),
                            (ids, embeddings)):
        got = sdk.embeddings.create(model="embed", input=given)  # as base64, unless told otherwise
        np.testing.assert_allclose([one.embedding for one in got.data], expected, **CLOSE)


def test_a_long_list_keeps_its_order(url, embeddings):
    status, got = post(f"{url}/v1/embeddings", {"model": "embed", "input": TEXTS * 40,
                                                "dimensions": 8})
    assert status == 200
    expected = embeddings[:, :8] / np.linalg.norm(embeddings[:, :8], axis=1, keepdims=True)
    np.testing.assert_allclose([one["embedding"] for one in got["data"]],
                               np.tile(expected, (40, 1)), **CLOSE)


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
def test_documents_are_ranked(url, folders, path):
    status, got = post(url + path, {
        "model": "rerank", "query": QUERY, "documents": [*TEXTS[:-1], {"text": TEXTS[-1]}],
        "top_n": 3, "return_documents": True})
    assert status == 200
    tokenizer = AutoTokenizer.from_pretrained(folders["rerank"])
    reference = AutoModelForSequenceClassification.from_pretrained(folders["rerank"])
    with torch.inference_mode():
        scores = [float(reference(**tokenizer(QUERY, text, return_tensors="pt")).logits.sigmoid())
                  for text in TEXTS]
    best = sorted(range(len(TEXTS)), key=lambda place: -scores[place])[:3]
    assert [result["index"] for result in got["results"]] == best
    np.testing.assert_allclose([result["relevance_score"] for result in got["results"]],
                               [scores[place] for place in best], **CLOSE)
    assert [result["document"] for result in got["results"]] == [
        {"text": TEXTS[place]} for place in best]
    assert got["usage"]["total_tokens"] == sum(
        len(tokenizer(QUERY, text)["input_ids"]) for text in TEXTS)


def test_labels_are_told(url):
    status, got = post(f"{url}/v1/classify", {"model": "classify", "input": TEXTS})
    assert status == 200
    assert [one["index"] for one in got["data"]] == list(range(len(TEXTS)))
    for one in got["data"]:
        scores = [label["score"] for label in one["labels"]]
        assert scores == sorted(scores, reverse=True)
        assert sum(scores) == pytest.approx(1)
        assert one["label"] == one["labels"][0]["label"]


def test_the_gateway_tells_what_each_model_is_for(url):
    models = json.loads(get(f"{url}/v1/models")[1])["data"]
    assert {model["id"]: model["task"] for model in models} == {
        "generate": "generate", "embed": "embed", "small": "embed", "rerank": "rerank",
        "classify": "classify"}


@pytest.mark.parametrize(("path", "body", "status", "param"), [
    ("embeddings", {"model": "embed", "input": []}, 400, "input"),
    ("embeddings", {"model": "embed", "input": "a", "encoding_format": "int8"}, 400,
     "encoding_format"),
    ("embeddings", {"model": "embed", "input": "a", "dimensions": 65}, 400, "dimensions"),
    ("embeddings", {"model": "embed", "input": "a", "temperature": 1}, 400, "temperature"),
    ("embeddings", {"model": "embed", "input": "a", "priority": "top"}, 400, "priority"),
    ("embeddings", {"model": "embed", "input": "a", "priority": "high"}, 400, "priority"),
    ("classify", {"model": "classify", "input": "a", "priority": "top"}, 400, "priority"),
    ("embeddings", {"model": "embed", "input": "word " * 99}, 400, "input"),
    ("embeddings", {"model": "generate", "input": "a"}, 404, None),
    ("chat/completions", {"model": "embed", "messages": [{"role": "user", "content": "a"}]},
     404, None),
    ("rerank", {"model": "rerank", "query": "a", "documents": []}, 400, "documents"),
    ("rerank", {"model": "rerank", "query": "a", "documents": ["b"], "top_n": 0}, 400, "top_n"),
    ("classify", {"model": "classify", "input": [1]}, 400, "input[0]"),
])
def test_the_gateway_refuses_bad_input_as_openai_does(url, path, body, status, param):
    got_status, got = post(f"{url}/v1/{path}", body)
    assert (got_status, got["error"]["param"]) == (status, param), got
    assert got["error"]["type"] == "invalid_request_error"


def test_a_priority_is_taken_where_the_queue_has_levels(url):
    for body in ({"model": "classify", "priority": "high"},
                 {"model": "embed", "priority": "normal"}):
        path = "classify" if body["model"] == "classify" else "embeddings"
        assert post(f"{url}/v1/{path}", {"input": "a", **body})[0] == 200


BLOCKS = re.findall(r"^```(python|sh)\n(.*?)^```$", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(("language", "source"), BLOCKS)
def test_an_example_of_the_documentation_runs(server, url, language, source):
    source = source.replace("localhost:8001", server.grpc_url).replace(
        "localhost:9000", url.removeprefix("http://"))
    command = {"python": [sys.executable, "-c"], "sh": ["sh", "-e", "-c"]}[language]
    done = subprocess.run([*command, source], capture_output=True, text=True, timeout=120,
                          check=True)
    assert done.stdout
    assert "error" not in done.stdout
