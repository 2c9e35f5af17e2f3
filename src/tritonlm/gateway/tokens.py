"""`/tokenize` and `/detokenize`: prompts to token ids and back, by the models of those names."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import uuid4

import msgspec
import numpy as np
from tritonclient.utils import deserialize_bytes_tensor

from tritonlm.contract import DETOKENIZE_IDS
from tritonlm.errors import InvalidArgument
from tritonlm.gateway.body import Body
from tritonlm.gateway.fleet import Fleet
from tritonlm.gateway.openai.messages import Message, template_messages
from tritonlm.options import INT32_MAX
from tritonlm_client.requests import Request, prompt_tensors


class TokenizeBody(Body, frozen=True):
    """A text or the messages of a chat, with the name of a model that is served."""

    model: str
    prompt: str | None = None
    messages: list[Message] | None = None


class DetokenizeBody(Body, frozen=True):
    """Token ids, with the name of a model that is served."""

    model: str
    tokens: list[Annotated[int, msgspec.Meta(ge=0, le=INT32_MAX)]]


async def tokenize(fleet: Fleet, body: TokenizeBody) -> dict[str, Any]:
    """The ids of a prompt, as the model gets them; raises `ServingError`."""
    if (body.prompt is None) == (body.messages is None):
        raise InvalidArgument("prompt", body.prompt, "give exactly one of prompt and messages")
    prompt = body.prompt if body.messages is None else template_messages(body.messages)
    model = fleet.resolve(body.model)
    connection = fleet.choose(model).connection
    request = Request(connection.part(model, "tokenize"), uuid4().hex,
                      prompt_tensors(prompt or ""), ["input_ids"])
    response = await connection.infer(request.as_protobuf())
    ids = np.frombuffer(response.raw_output_contents[0], "<i4").tolist()
    return {"tokens": ids, "count": len(ids)}


async def detokenize(fleet: Fleet, body: DetokenizeBody) -> dict[str, Any]:
    """The text of ids, without special tokens; raises `ServingError`."""
    tensors = {DETOKENIZE_IDS.name: np.array([body.tokens], np.int32)}
    model = fleet.resolve(body.model)
    connection = fleet.choose(model).connection
    request = Request(connection.part(model, "detokenize"), uuid4().hex, tensors, ["text_output"])
    response = await connection.infer(request.as_protobuf())
    return {"prompt": deserialize_bytes_tensor(response.raw_output_contents[0])[0].decode()}
