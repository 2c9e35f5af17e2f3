"""`/v1/rerank`, in the form that Cohere and Jina have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar
from uuid import uuid4

import numpy as np

from tritonlm.errors import InvalidArgument
from tritonlm.gateway.body import Body
from tritonlm.gateway.fleet import Fleet
from tritonlm.gateway.task_rows import TaskBody, infer_rows, num_tokens, text_rows
from tritonlm.gateway.usage import Usage

MAX_DOCUMENTS = 2048


class Document(Body, frozen=True):
    """A document may be an object with its text."""

    text: str


class RerankBody(TaskBody, frozen=True, kw_only=True):
    """What a client sends."""

    NAMES: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("document", "num_input_tokens"), "documents")

    query: str
    documents: list[str | Document]
    top_n: int | None = None
    return_documents: bool = False


async def rerank(fleet: Fleet, body: RerankBody, usage: Usage) -> dict[str, Any]:
    """The documents' places, the best first, and their scores; raises `ServingError`."""
    if not 1 <= len(body.documents) <= MAX_DOCUMENTS:
        raise InvalidArgument("documents", len(body.documents),
                              f"allowed: 1 to {MAX_DOCUMENTS} of them")
    if body.top_n is not None and body.top_n < 1:
        raise InvalidArgument("top_n", body.top_n, "allowed: 1 and more")
    texts = [document if isinstance(document, str) else document.text
             for document in body.documents]
    groups = text_rows({"query": [body.query] * len(texts), "document": texts})
    answers = await infer_rows(fleet, "rerank", body, groups, ("score", "num_input_tokens"))
    scores = np.concatenate([answer["score"] for answer in answers]).reshape(-1)
    usage.count_input(num_tokens(answers))
    results: list[dict[str, Any]] = [
        {"index": int(place), "relevance_score": float(scores[place])}
        for place in np.argsort(-scores, kind="stable")[: body.top_n]]
    if body.return_documents:
        for result in results:
            result["document"] = {"text": texts[result["index"]]}
    return {"id": f"rerank-{uuid4().hex}", "model": body.model, "results": results,
            "usage": usage.of_input()}
