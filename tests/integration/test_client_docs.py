"""Every example of docs/client.md runs, on a server that has models of all tasks."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.task_checkpoints import save_classifier, save_cross_encoder, save_embedder
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from tritonlm_client import AsyncClient, Client, InvalidArgument

TEXT = (Path(__file__).parents[2] / "docs" / "client.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(python|sh)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
TEXTS = ["The cat sat", "on", "Now is the winter of our discontent made glorious"] * 30
"""More than a request has rows."""
CLOSE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    return {"embed": save_embedder(folder / "embed"),
            "rerank": save_cross_encoder(folder / "rerank"),
            "classify": save_classifier(folder / "classify", num_labels=3)}


@pytest.fixture(scope="module")
def server(start_server, folders):
    return start_server(front_ends=1,
                        **{f"{task}_model": str(folder) for task, folder in folders.items()})


@pytest.mark.parametrize(("language", "source"), BLOCKS)
def test_an_example_runs(server, language, source):
    source = source.replace("localhost:8001", server.grpc_url).replace(
        "http://localhost:8000", server.http_url)
    command = {"python": [sys.executable, "-c"], "sh": ["sh", "-e", "-c"]}[language]
    scripts = Path(sys.executable).parent
    environ = os.environ | {"TRITONLM_URL": server.grpc_url,
                            "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([*command, source], env=environ, capture_output=True, text=True,
                          timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_there_are_examples():
    assert [language for language, _ in BLOCKS].count("python") == 12


class Sync:
    def call(self, url, method, *args, **options):
        with Client(url) as client:
            return getattr(client, method)(*args, **options)


class Async:
    def call(self, url, method, *args, **options):
        async def call():
            async with AsyncClient(url) as client:
                return await getattr(client, method)(*args, **options)
        return asyncio.run(call())


@pytest.fixture(params=[(Sync, "grpc_url"), (Sync, "http_url"), (Async, "grpc_url"),
                        (Async, "http_url")], ids=["grpc", "http", "async-grpc", "async-http"])
def call(request, server):
    """Call a method of a client."""
    api, url = request.param
    return lambda method, *args, **options: api().call(getattr(server, url), method, *args,
                                                       **options)


def logits_of(folder, *texts):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.inference_mode():
        return model(**tokenizer(*texts, return_tensors="pt")).logits[0]


def test_embeddings_are_those_of_transformers(call, folders):
    tokenizer = AutoTokenizer.from_pretrained(folders["embed"])
    model = AutoModel.from_pretrained(folders["embed"])
    embeddings = call("embed", TEXTS)
    num_tokens = 0
    for text, vector in zip(TEXTS[:3], embeddings.vectors[-3:], strict=True):
        with torch.inference_mode():
            inputs = tokenizer(text, return_tensors="pt")
            mean = model(**inputs).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(vector, torch.nn.functional.normalize(mean, dim=0), **CLOSE)
        num_tokens += inputs["input_ids"].shape[1]
    assert embeddings.vectors.shape == (len(TEXTS), 64)
    assert embeddings.num_input_tokens == 30 * num_tokens
    assert call("embed", TEXTS[:2], dimensions=8).vectors.shape == (2, 8)


def test_documents_are_ranked_as_transformers_scores_them(call, folders):
    scores = [torch.sigmoid(logits_of(folders["rerank"], "where is the cat", text)).item()
              for text in TEXTS[:3]]
    ranked = call("rerank", "where is the cat", TEXTS[:3])
    assert [each.index for each in ranked] == sorted(range(3), key=lambda i: -scores[i])
    for each in ranked:
        assert each.document == TEXTS[each.index]
        assert each.score == pytest.approx(scores[each.index], abs=1e-5)


def test_texts_are_classified_as_transformers_does(call, folders):
    for text, labels in zip(TEXTS[:3], call("classify", TEXTS[:3]), strict=True):
        shares = torch.softmax(logits_of(folders["classify"], text), 0)
        assert [label.score for label in labels] == pytest.approx(
            sorted(shares.tolist(), reverse=True), abs=1e-5)


def test_what_the_models_refuse_is_named(call):
    with pytest.raises(InvalidArgument) as caught:
        call("embed", ["a"], dimensions=10**6)
    assert caught.value.field == "dimensions"
