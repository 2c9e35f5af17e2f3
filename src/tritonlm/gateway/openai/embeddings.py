"""`/v1/embeddings`."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tritonlm.errors import InvalidArgument
from tritonlm.gateway.fleet import Fleet
from tritonlm.gateway.openai.prompts import read_prompts
from tritonlm.gateway.task_rows import TaskBody, id_rows, infer_rows, num_tokens, text_rows
from tritonlm.gateway.usage import Usage
from tritonlm.options import INT32_MAX

MAX_INPUTS = 2048
"""OpenAI's own."""
FORMATS = ("float", "base64")


class EmbeddingsBody(TaskBody, frozen=True, kw_only=True):
    """What a client sends."""

    input: Any
    encoding_format: str = "float"
    dimensions: int | None = None


async def embeddings(fleet: Fleet, body: EmbeddingsBody, usage: Usage) -> dict[str, Any]:
    """The embedding of each input; raises `ServingError`."""
    if body.encoding_format not in FORMATS:
        raise InvalidArgument("encoding_format", body.encoding_format,
                              f"allowed: {', '.join(FORMATS)}")
    prompts = read_prompts("input", body.input, MAX_INPUTS)
    texts = {place: prompt for place, prompt in enumerate(prompts) if isinstance(prompt, str)}
    ids = {place: prompt for place, prompt in enumerate(prompts) if not isinstance(prompt, str)}
    groups = [*text_rows({"text_input": [*texts.values()]}), *id_rows([*ids.values()])]
    if body.dimensions is not None:
        if not 1 <= body.dimensions <= INT32_MAX:
            raise InvalidArgument("dimensions", body.dimensions, f"allowed: 1 to {INT32_MAX}")
        for rows in groups:
            num_rows = len(next(iter(rows.values())))
            rows["dimensions"] = np.full((num_rows, 1), body.dimensions, np.int32)
    answers = await infer_rows(fleet, "embed", body, groups, ("embedding", "num_input_tokens"))
    vectors = np.concatenate([answer["embedding"] for answer in answers])
    usage.count_input(num_tokens(answers))
    order = np.argsort([*texts, *ids])
    return {"object": "list", "model": body.model, "usage": usage.of_input(),
            "data": [{"object": "embedding", "index": index,
                      "embedding": _told(vectors[place], body.encoding_format)}
                     for index, place in enumerate(order)]}


def _told(vector: NDArray[np.float32], encoding_format: str) -> str | list[float]:
    if encoding_format == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    told: list[float] = vector.tolist()
    return told
