"""The contract: every name, type and range that clients and models of the repository share.

The config.pbtxt files are held to the tensors here by a test. Options come as tensors, as request
parameters of the same names, or as keys of the JSON text `sampling_parameters`; a name given
twice is taken from the first of these. Nothing is ignored: an unknown name is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tritonlm.errors import InvalidArgument
from tritonlm.values import bool_value, float_value, int_value, text_value

FINISH_REASONS = ("", "stop", "length", "cancelled", "deadline")
"""By code; the empty one says that more follows."""

INT32_MAX = 2**31 - 1
UINT64_MAX = 2**64 - 1
NUMPY_DTYPES = {"BYTES": np.object_, "BOOL": np.bool_, "INT32": np.int32, "UINT64": np.uint64,
                "FP32": np.float32}
VALUES: dict[str, Callable[[str, Any, str], Any]] = {
    "BYTES": text_value, "BOOL": bool_value, "INT32": int_value, "UINT64": int_value,
    "FP32": float_value}
TRITON_PARAMETERS = frozenset({"id", "triton_enable_empty_final_response", "triton_final_response"})
"""Request parameters that Triton itself adds."""


class Tensor(NamedTuple):
    """A tensor without its batch dimension; dim -1 is any length."""

    name: str
    dtype: str
    dims: tuple[int, ...] = (1,)
    is_optional: bool = False


class Model(NamedTuple):
    """Inputs and outputs of a model of the repository."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    is_decoupled: bool = False


def _option(
    default: Any, dtype: str, allowed: str, check: Callable[[Any], bool], is_list: bool = False
) -> Any:
    metadata = {"dtype": dtype, "allowed": allowed, "check": check, "is_list": is_list}
    return field(default=default, metadata=metadata)


def _flag(default: bool) -> Any:
    return _option(default, "BOOL", "true or false", lambda _: True)


def _positive() -> Any:
    return _option(None, "INT32", f"1 to {INT32_MAX}", lambda v: 0 < v <= INT32_MAX)


@dataclass(frozen=True)
class Options:
    """What a request says beside its prompt; the fields' names are the contract's names."""

    max_tokens: int | None = _positive()
    ignore_eos: bool = _flag(False)
    stop: tuple[str, ...] = _option((), "BYTES", "at most 16 texts of at most 1,024 characters",
                                    lambda v: len(v) <= 16 and all(len(s) <= 1024 for s in v), True)
    stop_token_ids: tuple[int, ...] = _option(
        (), "INT32", f"at most 16 ids of 0 to {INT32_MAX}",
        lambda v: len(v) <= 16 and all(0 <= i <= INT32_MAX for i in v), True)
    include_stop_str_in_output: bool = _flag(False)
    truncate_prompt_tokens: int | None = _positive()
    temperature: float = _option(1.0, "FP32", "0 (greedy) to 100", lambda v: 0 <= v <= 100)
    top_p: float = _option(1.0, "FP32", "more than 0, at most 1", lambda v: 0 < v <= 1)
    top_k: int = _option(0, "INT32", "-1 or 0 (all tokens), or 1 and more",
                         lambda v: -1 <= v <= INT32_MAX)
    min_p: float = _option(0.0, "FP32", "0 to 1", lambda v: 0 <= v <= 1)
    seed: int | None = _option(None, "UINT64", f"0 to {UINT64_MAX}", lambda v: 0 <= v <= UINT64_MAX)
    stream: bool = _flag(False)
    exclude_input_in_output: bool = _flag(True)
    return_num_input_tokens: bool = _flag(True)
    return_num_output_tokens: bool = _flag(True)
    return_finish_reason: bool = _flag(True)
    timeout_ms: int | None = _positive()
    request_id: str = _option("", "BYTES", "at most 256 characters", lambda v: len(v) <= 256)
    cancel: bool = _flag(False)


OPTIONS = {option.name: option for option in fields(Options)}
ALIASES = {"stop_words": "stop"}
"""Other names of options, those of Triton's TensorRT-LLM backend."""

PROMPT = (
    Tensor("text_input", "BYTES", is_optional=True),
    Tensor("messages", "BYTES", is_optional=True),
    Tensor("input_ids", "INT32", (-1,), is_optional=True),
)
SAMPLING_PARAMETERS = Tensor("sampling_parameters", "BYTES", is_optional=True)
OPTION_TENSORS = (
    SAMPLING_PARAMETERS,
    *(Tensor(name, OPTIONS[ALIASES.get(name, name)].metadata["dtype"],
             (-1,) if OPTIONS[ALIASES.get(name, name)].metadata["is_list"] else (1,),
             is_optional=True)
      for name in (*OPTIONS, *ALIASES)),
)
ANSWER = (
    Tensor("text_output", "BYTES"),
    Tensor("output_ids", "INT32", (-1,)),
    Tensor("chunk_index", "INT32"),
    Tensor("finish_reason", "BYTES", (-1,)),
    Tensor("num_input_tokens", "INT32", (-1,)),
    Tensor("num_output_tokens", "INT32", (-1,)),
)
DETOKENIZE_IDS = Tensor("detokenize_ids", "INT32", (-1,))
"""The ids that a chunk's text is decoded from: its own, and earlier ones for context."""
DETOKENIZE_SPAN = Tensor("detokenize_span", "INT32", (2,))
"""First and last + 1 character of the chunk in the text of `detokenize_ids`."""

MODELS = {
    # It checks the options too: what generate would refuse is refused before anything is computed.
    "tokenize": Model((*PROMPT[:2], *OPTION_TENSORS), (Tensor("input_ids", "INT32", (-1,)),)),
    "generate": Model((*PROMPT, *OPTION_TENSORS), (*ANSWER, DETOKENIZE_IDS, DETOKENIZE_SPAN), True),
    "detokenize": Model((DETOKENIZE_IDS, DETOKENIZE_SPAN), ANSWER[:1]),
    "text_generation": Model((*PROMPT[:2], *OPTION_TENSORS), ANSWER, True),
}


@dataclass(frozen=True)
class Prompt:
    """Exactly one of a text, chat messages and token ids."""

    text: str | None = None
    messages: tuple[Mapping[str, Any], ...] | None = None
    ids: NDArray[np.int32] | None = None


def parse_prompt(tensors: Mapping[str, NDArray[Any]]) -> Prompt:
    """The prompt among a request's tensors; raises `InvalidArgument`."""
    names = [tensor.name for tensor in PROMPT]
    given = [name for name in names if name in tensors]
    if len(given) != 1:
        raise InvalidArgument("prompt", " and ".join(given) or "nothing",
                              f"give exactly one of {', '.join(names)}")
    name, values = given[0], tensors[given[0]]
    if name == "input_ids":
        return Prompt(ids=_flat_ids(values))
    text = text_value(name, _single(name, values))
    if not text:
        raise InvalidArgument(name, text, "it must not be empty")
    if name == "text_input":
        return Prompt(text=text)
    return Prompt(messages=_chat_messages(text))


def parse_options(
    tensors: Mapping[str, NDArray[Any]], parameters: Mapping[str, Any], triton_id: str = ""
) -> Options:
    """The options of a request; raises `InvalidArgument`.

    `tensors` may hold prompt tensors too; `parameters` are Triton's request parameters, and
    `triton_id` its request id, which stands in for a `request_id` that is not given.
    """
    parameters = {k: v for k, v in parameters.items() if k not in TRITON_PARAMETERS}
    prompt_names = {tensor.name for tensor in PROMPT}
    given_tensors = {name: _tensor_value(name, values) for name, values in tensors.items()
                     if name not in prompt_names}
    json_text = parameters.pop(SAMPLING_PARAMETERS.name, "{}")
    json_text = given_tensors.pop(SAMPLING_PARAMETERS.name, json_text)
    values: dict[str, Any] = {"request_id": triton_id}
    for source in (_json_options(json_text), parameters, given_tensors):
        values |= _canonical(source)
    options = Options(**{name: _parse(name, value) for name, value in values.items()})
    if options.cancel and not options.request_id:
        raise InvalidArgument("request_id", "", "cancel needs the id of a running request")
    return options


def _canonical(source: Mapping[str, Any]) -> dict[str, Any]:
    """`source` with aliases resolved; an unknown name, or a name and its alias, raise."""
    values: dict[str, Any] = {}
    for name, value in source.items():
        option = ALIASES.get(name, name)
        if option not in OPTIONS:
            known = ", ".join((*OPTIONS, *ALIASES, SAMPLING_PARAMETERS.name))
            raise InvalidArgument(name, value, f"unknown; known: {known}")
        if option in values:
            names = " and ".join(given for given in source if ALIASES.get(given, given) == option)
            raise InvalidArgument(name, value, f"{names} are one option; give one of them")
        values[option] = value
    return values


def _json_options(text: Any) -> dict[str, Any]:
    name = SAMPLING_PARAMETERS.name
    try:
        options = json.loads(text_value(name, text))
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(name, text, f"it must be a JSON object: {error}") from None
    if not isinstance(options, dict):
        raise InvalidArgument(name, text, "it must be a JSON object")
    return options


def _chat_messages(text: str) -> tuple[Mapping[str, Any], ...]:
    allowed = 'it must be a JSON list of objects such as {"role": "user", "content": "Hi"}'
    try:
        messages = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidArgument("messages", text, allowed) from None
    is_chat = isinstance(messages, list) and messages and all(
        isinstance(message, dict) and isinstance(message.get("role"), str) and "content" in message
        for message in messages)
    if not is_chat:
        raise InvalidArgument("messages", text, allowed)
    return tuple(messages)


def _flat_ids(values: NDArray[Any]) -> NDArray[np.int32]:
    ids = _single_row("input_ids", values).astype(np.int32)
    if ids.size == 0:
        raise InvalidArgument("input_ids", [], "it must not be empty")
    return ids


def _single_row(name: str, values: NDArray[Any]) -> NDArray[Any]:
    if values.ndim > 1 and values.shape[0] != 1:
        raise InvalidArgument(name, list(values.shape), "one row a request: shape [1, n]")
    return values.reshape(-1)


def _single(name: str, values: NDArray[Any]) -> Any:
    if values.size != 1:
        raise InvalidArgument(name, list(values.shape), "exactly one value: shape [1, 1]")
    return values.reshape(-1)[0]


def _tensor_value(name: str, values: NDArray[Any]) -> Any:
    option = OPTIONS.get(ALIASES.get(name, name))
    if option is not None and option.metadata["is_list"]:
        return _single_row(name, values).tolist()
    value = _single(name, values)
    return value.item() if isinstance(value, np.generic) else value


def _parse(name: str, value: Any) -> Any:
    """`value` in the option's type; texts are taken if they parse exactly."""
    metadata = OPTIONS[name].metadata
    allowed, convert = metadata["allowed"], VALUES[metadata["dtype"]]
    if metadata["is_list"]:
        items = value if isinstance(value, list | tuple) else [value]
        parsed: Any = tuple(convert(name, item, allowed) for item in items
                            if item not in ("", b""))
    else:
        parsed = convert(name, value, allowed)
    if not metadata["check"](parsed):
        raise InvalidArgument(name, value, f"allowed: {allowed}")
    return parsed
