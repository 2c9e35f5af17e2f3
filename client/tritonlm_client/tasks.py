"""Embeddings, reranking and classification: requests of up to 64 rows, and what comes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from tritonlm.errors import InvalidArgument
from tritonlm.options import INT32_MAX
from tritonlm_client.requests import Request, utf8
from tritonlm_client.transport import Tensors

MAX_ROWS = 64
"""Of a request, as the models allow it; longer lists become several requests."""


@dataclass(frozen=True)
class Embeddings:
    """Vectors of texts."""

    vectors: NDArray[np.float32]
    """Of shape [texts, dimensions], in the order of the texts."""
    num_input_tokens: int
    """Of all texts together."""


@dataclass(frozen=True)
class RankedDocument:
    """A document and how well it answers a query."""

    index: int
    """Its place among the documents that were given, from 0."""
    document: str
    score: float


@dataclass(frozen=True)
class Label:
    """A class that a text may belong to."""

    name: str
    score: float


def embed_requests(model: str, texts: Sequence[str], dimensions: int | None) -> list[Request]:
    """What `embed` is asked; raises `InvalidArgument`."""
    if dimensions is not None and not 1 <= dimensions <= INT32_MAX:
        raise InvalidArgument("dimensions", dimensions, f"allowed: 1 to {INT32_MAX}")

    def tensors(rows: Sequence[str]) -> dict[str, NDArray[Any]]:
        asked = {} if dimensions is None else {
            "dimensions": np.full((len(rows), 1), dimensions, np.int32)}
        return {"text_input": _column("texts", rows), **asked}
    return _requests(model, "texts", texts, tensors, ("embedding", "num_input_tokens"))


def rerank_requests(model: str, query: str, documents: Sequence[str]) -> list[Request]:
    """What `rerank` is asked; raises `InvalidArgument`."""
    def tensors(rows: Sequence[str]) -> dict[str, NDArray[Any]]:
        return {"query": _column("query", [query] * len(rows)),
                "document": _column("documents", rows)}
    return _requests(model, "documents", documents, tensors, ("score",))


def classify_requests(model: str, texts: Sequence[str]) -> list[Request]:
    """What `classify` is asked; raises `InvalidArgument`."""
    return _requests(model, "texts", texts,
                     lambda rows: {"text_input": _column("texts", rows)}, ("label", "score"))


def embeddings(answers: Iterable[Tensors]) -> Embeddings:
    """What the answers to `embed_requests` say."""
    told = list(answers)
    return Embeddings(np.concatenate([each["embedding"] for each in told]),
                      sum(int(each["num_input_tokens"].sum()) for each in told))


def ranking(documents: Sequence[str], answers: Iterable[Tensors]) -> list[RankedDocument]:
    """What the answers to `rerank_requests` say, the best document first."""
    scores = np.concatenate([each["score"].reshape(-1) for each in answers]).tolist()
    ranked = [RankedDocument(index, document, score)
              for index, (document, score) in enumerate(zip(documents, scores, strict=True))]
    return sorted(ranked, key=lambda each: -each.score)


def classifications(answers: Iterable[Tensors]) -> list[tuple[Label, ...]]:
    """What the answers to `classify_requests` say: each text's labels, the likeliest first."""
    return [tuple(map(Label, names, scores)) for each in answers
            for names, scores in zip(each["label"].tolist(), each["score"].tolist(), strict=True)]


def _requests(
    model: str, field: str, rows: Sequence[str],
    tensors: Callable[[Sequence[str]], dict[str, NDArray[Any]]], outputs: tuple[str, ...],
) -> list[Request]:
    if isinstance(rows, str) or not rows:
        raise InvalidArgument(field, rows, "give a list of at least one text")
    return [Request(model, uuid4().hex, tensors(rows[start : start + MAX_ROWS]), outputs)
            for start in range(0, len(rows), MAX_ROWS)]


def _column(field: str, texts: Sequence[str]) -> NDArray[Any]:
    """Texts as a tensor of shape [rows, 1]."""
    return np.array([[utf8(field, text)] for text in texts], np.object_)
