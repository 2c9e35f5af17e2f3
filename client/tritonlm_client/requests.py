"""Requests as they go over the wire: prompt and options become tensors of shape [1, n]."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc.service_pb2 import ModelInferRequest
from tritonclient.utils import serialize_byte_tensor

from tritonlm import contract
from tritonlm.errors import InvalidArgument, ServingError, Unavailable
from tritonlm.options import ALIASES, INT32_MAX, NO_TENSORS, OPTIONS
from tritonlm_client.errors import DeadlineExceeded

Prompt: TypeAlias = (
    str | Sequence[Mapping[str, Any]] | Mapping[str, Any] | Sequence[int]
    | NDArray[np.integer[Any]]
)
"""A text, chat messages such as {"role": "user", "content": "Hi"}, or token ids.

{"messages": [...], "tools": [...]} are messages with what the model may call.
"""

OUTPUTS = tuple(tensor.name for tensor in contract.ANSWER)
DTYPES = {tensor.name: tensor.dtype
          for models in (contract.MODELS, contract.TASK_MODELS)
          for model in models.values() for tensor in model.inputs}
OPTION_NAMES = {*OPTIONS, *ALIASES} - {"stream", "cancel"}
TENSOR_NAMES = {option: name for name, option in ALIASES.items() if option in NO_TENSORS}
"""Of options that have no tensor of their own name."""
CANCEL_MODELS = {"text_generation": "generate"}
"""Where a request is cancelled if not at its own model: Triton tells no step of an ensemble."""


@dataclass(frozen=True)
class Request:
    """What a model is asked, however it is sent: `tensors` of shape [1, n]."""

    model: str
    id: str
    tensors: Mapping[str, NDArray[Any]]
    outputs: Sequence[str] = OUTPUTS
    takes_timeout: bool = False
    """Whether the model has an input `timeout_ms`."""

    def as_protobuf(self) -> ModelInferRequest:
        """As gRPC has it."""
        utf8("request_id", self.id)
        request = ModelInferRequest(model_name=self.model, id=self.id)
        # Without it a stream that ends in a response without outputs looks like one cut short.
        request.parameters["triton_enable_empty_final_response"].bool_param = True
        for name, values in self.tensors.items():
            request.inputs.add(name=name, datatype=DTYPES[name], shape=values.shape)
            is_text = DTYPES[name] == "BYTES"
            raw = serialize_byte_tensor(values).item() if is_text else values.tobytes()
            request.raw_input_contents.append(raw)
        for name in self.outputs:
            request.outputs.add(name=name)
        return request


def text_request(
    model: str, prompt: Prompt, options: Mapping[str, Any], is_stream: bool
) -> Request:
    """A request for text; its `id` is the option `request_id`, or a new one.

    Raises `InvalidArgument` for a prompt or an option that a server would refuse on sight.
    """
    given = _plain(options)
    parsed = contract.parse_options({}, {**given, "stream": is_stream})
    request_id = parsed.request_id or uuid4().hex
    tensors = prompt_tensors(prompt)
    for option in {ALIASES.get(name, name) for name in given} - {"request_id"}:
        value = getattr(parsed, option)
        if value != ():
            name = TENSOR_NAMES.get(option, option)
            tensors[name] = _option_tensor(name, value)
    if is_stream:
        tensors["stream"] = _option_tensor("stream", True)
    return Request(model, request_id, tensors, takes_timeout=True)


def cancel_request(model: str, request_id: str) -> Request:
    """A request that cancels the running one of that id; its answer has no text."""
    contract.parse_options({}, {"request_id": request_id, "cancel": True})
    tensors = {"request_id": _option_tensor("request_id", request_id),
               "cancel": _option_tensor("cancel", True)}
    return Request(CANCEL_MODELS.get(model, model), uuid4().hex, tensors)


def may_run_on(request: Request, error: ServingError) -> bool:
    """Whether a request that failed may go on at its server, which was told when its time ends."""
    is_lost = isinstance(error, Unavailable) and not isinstance(error, DeadlineExceeded)
    return is_lost and request.model in CANCEL_MODELS


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are given, in Python's own types; an unknown name raises."""
    plain = {}
    for name, value in options.items():
        if name not in OPTION_NAMES:
            raise InvalidArgument(name, value, f"unknown; known: {', '.join(sorted(OPTION_NAMES))}")
        if value is not None:
            plain[name] = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    return plain


def _option_tensor(name: str, value: Any) -> NDArray[Any]:
    if name == "logit_bias":
        value = json.dumps(dict(value))
    items = value if isinstance(value, tuple) else (value,)
    if DTYPES[name] == "BYTES":
        items = tuple(utf8(name, text) for text in items)
    return np.array([items], contract.NUMPY_DTYPES[DTYPES[name]])


def prompt_tensors(prompt: Prompt) -> dict[str, NDArray[Any]]:
    """The tensor that a prompt is sent as; raises `InvalidArgument`."""
    if isinstance(prompt, str):
        tensors = _text_tensor("text_input", prompt)
    elif isinstance(prompt, Mapping) or (
            isinstance(prompt, Sequence) and prompt and isinstance(prompt[0], Mapping)):
        tensors = _text_tensor("messages", _json_text(prompt))
    else:
        tensors = {"input_ids": _ids(prompt)}
    contract.parse_prompt(tensors)
    return tensors


def _text_tensor(name: str, text: str) -> dict[str, NDArray[Any]]:
    return {name: np.array([[utf8(name, text)]], np.object_)}


def _json_text(messages: Any) -> str:
    try:
        return json.dumps(messages, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidArgument("messages", messages, f"JSON cannot say it: {error}") from None


def utf8(name: str, text: str) -> bytes:
    """`text` as it is sent; raises `InvalidArgument`, which calls it `name`."""
    try:
        return text.encode()
    except AttributeError:
        raise InvalidArgument(name, text, "give a text") from None
    except UnicodeEncodeError as error:
        raise InvalidArgument(name, text, f"UTF-8 cannot say it: {error.reason}") from None


def _ids(prompt: Any) -> NDArray[np.int32]:
    """Token ids of shape [1, n]."""
    allowed = "give a text, chat messages, or token ids: a flat sequence of int"
    try:
        ids = np.asarray(prompt)
    except ValueError:
        raise InvalidArgument("prompt", prompt, allowed) from None
    if ids.size == 0 or ids.dtype.kind not in "iu" or ids.ndim != 1:
        raise InvalidArgument("prompt", prompt, allowed)
    if ids.min() < 0 or ids.max() > INT32_MAX:
        raise InvalidArgument("input_ids", prompt, f"allowed: 0 to {INT32_MAX}")
    return ids.astype(np.int32)[np.newaxis]
