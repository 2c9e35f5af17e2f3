"""`/v1/classify`: labels of texts and their scores."""

from __future__ import annotations

from typing import Any

from tritonlm.gateway.fleet import Fleet
from tritonlm.gateway.openai.prompts import read_prompts
from tritonlm.gateway.task_rows import TaskBody, infer_rows, num_tokens, text_rows
from tritonlm.gateway.usage import Usage

MAX_INPUTS = 2048


class ClassifyBody(TaskBody, frozen=True, kw_only=True):
    """What a client sends."""

    input: str | list[str]


async def classify(fleet: Fleet, body: ClassifyBody, usage: Usage) -> dict[str, Any]:
    """The labels of each input, the likeliest first; raises `ServingError`."""
    texts = [str(text) for text in read_prompts("input", body.input, MAX_INPUTS)]
    answers = await infer_rows(fleet, "classify", body, text_rows({"text_input": texts}),
                               ("label", "score", "num_input_tokens"))
    usage.count_input(num_tokens(answers))
    rows = [row for answer in answers
            for row in zip(answer["label"], answer["score"], strict=True)]
    return {"object": "list", "model": body.model, "usage": usage.of_input(),
            "data": [{"index": index, "label": labels[0].decode(),
                      "labels": [{"label": label.decode(), "score": float(score)}
                                 for label, score in zip(labels, scores, strict=True)]}
                     for index, (labels, scores) in enumerate(rows)]}
