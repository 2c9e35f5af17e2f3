"""Each task equals transformers run on one text after another."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tests.small_tokenizers import CORPUS
from tests.task_checkpoints import (
    MAX_LEN,
    save_causal_reranker,
    save_classifier,
    save_cross_encoder,
    save_embedder,
)
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from tritonlm.encoders.classifier import Classifier
from tritonlm.encoders.config import QWEN3_RERANKER, ClassifyConfig, EmbedConfig, RerankConfig
from tritonlm.encoders.embedder import Embedder
from tritonlm.encoders.pooling import normalized
from tritonlm.encoders.reranker import Reranker
from tritonlm.encoders.row_encoder import pair_encoder
from tritonlm.encoders.rows import Row
from tritonlm.errors import InvalidArgument

TEXTS = ["The cat sat", "on", "Now is the winter of our discontent made glorious", "the dog's mat",
         "the sun of York and the cat and the dog and the mat of the cat"]
PAIRS = [("the cat", text) for text in TEXTS]
CLOSE = {"rtol": 0, "atol": 1e-5}


def settings(kind, folder, **more):
    return kind(model=str(folder), device="cpu", **more)


def compute(task, items, **tensors):
    rows = task.encoder.encode(items)
    return task.outputs(task.runner.run(rows), tensors)


def hidden(folder, text):
    """The last layer's vectors [tokens, width] of a text alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        encoding = tokenizer(text, return_tensors="pt")
        return AutoModel.from_pretrained(folder)(**encoding).last_hidden_state[0].numpy()


POOLED = {"mean_tokens": lambda vectors: vectors.mean(0), "cls_token": lambda vectors: vectors[0],
          "lasttoken": lambda vectors: vectors[-1]}


@pytest.mark.parametrize(("family", "pooling"), [
    ("bert", "mean_tokens"), ("bert", "cls_token"), ("roberta", "mean_tokens"),
    ("modernbert", "cls_token"), ("qwen3", "lasttoken"), ("llama", "mean_tokens")])
def test_embeddings_are_what_sentence_transformers_defines(tmp_path, family, pooling):
    save_embedder(tmp_path, family, pooling)
    embedder = Embedder(settings(EmbedConfig, tmp_path))
    got = compute(embedder, [(text,) for text in TEXTS])["embedding"]
    for vector, text in zip(got, TEXTS, strict=True):
        pooled = POOLED[pooling](hidden(tmp_path, text))
        np.testing.assert_allclose(vector, pooled / np.linalg.norm(pooled), **CLOSE)
    assert embedder.runner.work.num_rows == len(TEXTS)
    assert embedder.runner.work.num_tokens > 0


def test_settings_win_over_the_checkpoints_files(tmp_path):
    save_embedder(tmp_path, pooling="mean_tokens")
    embedder = Embedder(settings(EmbedConfig, tmp_path, pooling="cls", normalize="false"))
    [got] = compute(embedder, [(TEXTS[0],)])["embedding"]
    np.testing.assert_allclose(got, hidden(tmp_path, TEXTS[0])[0], **CLOSE)


def test_without_files_the_mean_is_taken_as_it_is(tmp_path):
    save_embedder(tmp_path, pooling=None)
    [got] = compute(Embedder(settings(EmbedConfig, tmp_path)), [(TEXTS[0],)])["embedding"]
    np.testing.assert_allclose(got, hidden(tmp_path, TEXTS[0]).mean(0), **CLOSE)


def test_embeddings_are_cut_and_have_length_one_again(tmp_path):
    embedder = Embedder(settings(EmbedConfig, save_embedder(tmp_path)))
    asked = np.array([[8]] * len(TEXTS), np.int32)
    items = [(text,) for text in TEXTS]
    got = compute(embedder, items, dimensions=asked)["embedding"]
    np.testing.assert_allclose(got, normalized(compute(embedder, items)["embedding"][:, :8]),
                               **CLOSE)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, **CLOSE)


@pytest.mark.parametrize("dimensions", [[0], [65], [8, 9]])
def test_dimensions_that_there_are_not_are_refused(tmp_path, dimensions):
    embedder = Embedder(settings(EmbedConfig, save_embedder(tmp_path)))
    with pytest.raises(InvalidArgument, match=r"dimensions: .* allowed: 1 to 64, the same in all"):
        embedder.check({"dimensions": np.array(dimensions, np.int32).reshape(-1, 1)})


@pytest.mark.parametrize("family", ["bert", "roberta", "qwen3"])
def test_a_cross_encoders_score_is_the_sigmoid_of_its_label(tmp_path, family):
    save_cross_encoder(tmp_path, family)
    got = compute(Reranker(settings(RerankConfig, tmp_path)), PAIRS)["score"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    for score, (query, document) in zip(got, PAIRS, strict=True):
        with torch.inference_mode():
            encoding = tokenizer(query, document, return_tensors="pt")
            logit = model(**encoding).logits[0]
        np.testing.assert_allclose(score, logit.sigmoid(), **CLOSE)


def test_a_causal_rerankers_score_is_the_probability_of_yes(tmp_path):
    save_causal_reranker(tmp_path)
    reranker = Reranker(settings(RerankConfig, tmp_path, max_model_len=256))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    prompts = [QWEN3_RERANKER.replace("{query}", query).replace("{document}", document)
               for query, document in PAIRS]
    reranker.encoder.max_row_len = 10_000
    got = compute(reranker, PAIRS)["score"]
    words = tokenizer.convert_tokens_to_ids(["no", "yes"])
    for score, prompt in zip(got, prompts, strict=True):
        with torch.inference_mode():
            logits = model(**tokenizer(prompt, return_tensors="pt")).logits[0, -1, words]
        np.testing.assert_allclose(score, logits.softmax(0)[1:], **CLOSE)


@pytest.mark.parametrize("activation", ["sigmoid", "none"])
def test_the_checkpoint_says_what_its_score_is(tmp_path, activation):
    save_cross_encoder(tmp_path)
    path = tmp_path / "config.json"
    kind = {"sigmoid": "Sigmoid", "none": "Identity"}[activation]
    name = f"torch.nn.modules.activation.{kind}"
    path.write_text(json.dumps(json.loads(path.read_text()) | {
        "sbert_ce_default_activation_function": name}))
    told = compute(Reranker(settings(RerankConfig, tmp_path)), PAIRS)["score"]
    asked = Reranker(settings(RerankConfig, tmp_path, activation=activation))
    np.testing.assert_array_equal(told, compute(asked, PAIRS)["score"])
    assert (told.min() < 0) == (activation == "none")


def test_a_document_that_is_too_long_is_cut_and_its_template_is_not(tmp_path):
    save_causal_reranker(tmp_path)
    reranker = Reranker(settings(RerankConfig, tmp_path, max_model_len=200,
                                 prompt_template="Q{query}D{document}<|im_end|>yes?"))
    long, short = reranker.encoder.encode([("cat", "mat " * 300), ("cat", "mat")])
    assert long.ids.size == 200
    assert long.ids[-3:].tolist() == short.ids[-3:].tolist()
    assert long.ids[:4].tolist() == short.ids[:4].tolist()


@pytest.mark.parametrize(("config", "activation"), [
    ({"num_labels": 3}, lambda logits: logits.softmax(-1)),
    ({"num_labels": 3, "problem_type": "multi_label_classification"}, torch.sigmoid),
    ({"num_labels": 1}, torch.sigmoid),
    ({"num_labels": 1, "problem_type": "regression"}, lambda logits: logits),
])
def test_labels_come_with_their_scores_the_likeliest_first(tmp_path, config, activation):
    save_classifier(tmp_path, **config)
    got = compute(Classifier(settings(ClassifyConfig, tmp_path)), [(text,) for text in TEXTS])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    for labels, scores, text in zip(got["label"], got["score"], TEXTS, strict=True):
        with torch.inference_mode():
            expected = activation(model(**tokenizer(text, return_tensors="pt")).logits[0])
        assert scores.tolist() == sorted(scores, reverse=True)
        places = [model.config.label2id[label.decode()] for label in labels]
        np.testing.assert_allclose(scores, expected[places], **CLOSE)


def test_texts_that_are_too_long_are_refused_or_cut_as_the_tokenizer_does(tmp_path):
    save_embedder(tmp_path)
    text = " ".join(CORPUS)
    [refused] = Embedder(settings(EmbedConfig, tmp_path)).encoder.encode([(text,)])
    assert f"allowed: 1 to {MAX_LEN} tokens" in refused.message
    embedder = Embedder(settings(EmbedConfig, tmp_path, truncate=True, max_model_len=20))
    [row] = embedder.encoder.encode([(text,)])
    expected = AutoTokenizer.from_pretrained(tmp_path)(text, truncation=True, max_length=20)
    assert row.ids.tolist() == expected["input_ids"]


def test_the_longest_row_can_be_computed(tmp_path):
    for family in ("bert", "roberta"):
        embedder = Embedder(settings(EmbedConfig, save_embedder(tmp_path / family, family)))
        longest = Row(np.full(embedder.encoder.max_row_len, 7, np.int32))
        assert np.isfinite(embedder.runner.run([longest])).all()


@pytest.mark.parametrize("bad", [[160], [-1, 5]])
def test_ids_beyond_the_vocabulary_are_refused(tmp_path, bad):
    embedder = Embedder(settings(EmbedConfig, save_embedder(tmp_path)))
    [refused] = embedder.encoder.encode([Row(np.array(bad, np.int32))])
    assert refused.message == f"input_ids: {bad[0]} is not allowed; allowed: 0 to 159"


@pytest.mark.parametrize("bad", [2, -1])
def test_types_beyond_those_of_the_model_are_refused_and_fail_no_other_row(tmp_path, bad):
    reranker = Reranker(settings(RerankConfig, save_cross_encoder(tmp_path)))
    ids = np.array([5, 6], np.int32)
    refused, row = reranker.encoder.encode([Row(ids, np.array([0, bad], np.int32)),
                                            Row(ids, np.array([0, 1], np.int32))])
    assert refused.message == f"token_type_ids: {bad} is not allowed; allowed: 0 to 1"
    assert np.isfinite(reranker.runner.run([row])).all()


def refusal(task, kind, folder, **more):
    with pytest.raises(InvalidArgument) as caught:
        task(settings(kind, folder, **more))
    return caught.value.message


def test_a_checkpoint_of_another_task_is_refused_by_name(tmp_path):
    classifier = save_classifier(tmp_path / "classifier", num_labels=3)
    base = save_embedder(tmp_path / "base")
    assert "BertForSequenceClassification; embed needs" in refusal(
        Embedder, EmbedConfig, classifier)
    assert "it has 3 labels; a reranker has one" in refusal(Reranker, RerankConfig, classifier)
    assert "it is a BertModel; classify needs ...ForSequenceClassification" in refusal(
        Classifier, ClassifyConfig, base)


def test_a_checkpoint_without_a_tokenizer_is_refused_by_name(tmp_path):
    for file in save_embedder(tmp_path).glob("token*"):
        file.unlink()
    assert f"model: '{tmp_path}" in refusal(Embedder, EmbedConfig, tmp_path)
    assert "it must have a tokenizer" in refusal(Embedder, EmbedConfig, tmp_path)


def test_weights_without_the_tasks_head_are_refused(tmp_path):
    save_embedder(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace("BertModel", "BertForSequenceClassification"))
    assert "does not have all weights of a BertForSequenceClassification: classifier" in refusal(
        Classifier, ClassifyConfig, tmp_path)


def test_what_the_files_of_sentence_transformers_say_beyond_this_is_refused(tmp_path):
    save_embedder(tmp_path / "max", pooling="max_tokens2")
    assert "its pooling max_tokens2 is not supported" in refusal(
        Embedder, EmbedConfig, tmp_path / "max")
    folder = save_embedder(tmp_path / "dense")
    modules = (folder / "modules.json").read_text().replace("Normalize", "Dense")
    (folder / "modules.json").write_text(modules)
    assert "it has a module Dense" in refusal(Embedder, EmbedConfig, folder)


def test_a_template_that_leaves_no_room_for_texts_is_refused(tmp_path):
    save_causal_reranker(tmp_path)
    assert "max_model_len: 20 is not allowed; the prompt template alone has" in refusal(
        Reranker, RerankConfig, tmp_path, max_model_len=20)


def test_words_that_are_no_tokens_are_refused(tmp_path):
    save_causal_reranker(tmp_path)
    assert "no token 'oui'" in refusal(Reranker, RerankConfig, tmp_path, yes_token="oui")


def test_the_tokenizing_process_gives_the_same_rows(tmp_path):
    from tritonlm.encoders.checkpoint import Checkpoint  # noqa: PLC0415

    config = settings(RerankConfig, save_cross_encoder(tmp_path))
    apart = pair_encoder(Checkpoint(config)).encode(PAIRS)
    for row, own in zip(apart, Reranker(config).encoder.encode(PAIRS), strict=True):
        assert row.ids.tolist() == own.ids.tolist()
        assert row.type_ids.tolist() == own.type_ids.tolist()
