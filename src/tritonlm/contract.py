"""The contract: every name, type and range that clients and models of the repository share.

The config.pbtxt files are held to the tensors here by a test. Options come as tensors, as request
parameters of the same names, or as keys of the JSON text `sampling_parameters`; a name given
twice is taken from the first of these. Nothing is ignored: an unknown name is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tritonlm.errors import InvalidArgument
from tritonlm.options import ALIASES, GUIDES, NO_TENSORS, OPTIONS, Options, option_value
from tritonlm.tracing import TRACEPARENT, is_traceparent
from tritonlm.values import text_value

FINISH_REASONS = ("", "stop", "length", "cancelled", "deadline")
"""By code; the empty one says that more follows."""

NUMPY_DTYPES = {"BYTES": np.object_, "BOOL": np.bool_, "INT32": np.int32, "UINT64": np.uint64,
                "FP32": np.float32}
TRITON_PARAMETERS = frozenset({"id", "triton_enable_empty_final_response", "triton_final_response"})
"""Request parameters that Triton itself adds."""
NO_OPTIONS = TRITON_PARAMETERS | {TRACEPARENT}
"""Request parameters that are not about what is generated."""


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
      for name in (*OPTIONS, *ALIASES) if name not in NO_TENSORS),
)
ANSWER = (
    Tensor("text_output", "BYTES", (-1,)),
    Tensor("output_ids", "INT32", (-1,)),
    Tensor("chunk_index", "INT32"),
    Tensor("finish_reason", "BYTES", (-1,)),
    Tensor("num_input_tokens", "INT32", (-1,)),
    Tensor("num_output_tokens", "INT32", (-1,)),
    Tensor("sequence_index", "INT32", (-1,)),
    Tensor("logprobs", "BYTES", (-1,)),
    Tensor("perf_metrics", "BYTES", (-1,)),
)
"""One value each, except for the ids, while `n` is 1 or `stream` is true.

Else all n sequences come in one response: n values each, but one `chunk_index` and one
`num_input_tokens`; the sequences' ids follow each other, `num_output_tokens` of each. There is one
`perf_metrics` in all, with the last response, for a request that asks for it.
"""
DETOKENIZE_IDS = Tensor("detokenize_ids", "INT32", (-1,))
"""The ids that a chunk's text is decoded from: its own, and earlier ones for context."""
DETOKENIZE_SPAN = Tensor("detokenize_span", "INT32", (-1,))
"""First and last + 1 character of the chunk in the text of `detokenize_ids`.

To `detokenize` it need not be given: then the whole text is meant.
"""
DETOKENIZE_NUM_IDS = Tensor("detokenize_num_ids", "INT32", (-1,))
"""How many of the ids belong to each of several texts; not given, there is one text."""
PROMPT_INDEX = Tensor("prompt_index", "INT32")
"""Which prompt of a request with several rows a response is about."""

MODELS = {
    # It checks the options too: what generate would refuse is refused before anything is computed.
    "tokenize": Model((*PROMPT[:2], *OPTION_TENSORS), (Tensor("input_ids", "INT32", (-1,)),)),
    "generate": Model((*PROMPT, *OPTION_TENSORS),
                      (*ANSWER, DETOKENIZE_IDS, DETOKENIZE_SPAN, DETOKENIZE_NUM_IDS,
                       PROMPT_INDEX), True),
    # One response, for which Triton's response cache may stand in.
    "complete": Model((*PROMPT, *OPTION_TENSORS), ANSWER),
    "detokenize": Model((DETOKENIZE_IDS, DETOKENIZE_SPAN._replace(is_optional=True),
                         DETOKENIZE_NUM_IDS._replace(is_optional=True)), ANSWER[:1]),
    "text_generation": Model((*PROMPT[:2], *OPTION_TENSORS), ANSWER, True),
}

TEXT = PROMPT[0]
QUERY = Tensor("query", "BYTES", is_optional=True)
DOCUMENT = Tensor("document", "BYTES", is_optional=True)
NUM_INPUT_TOKENS = Tensor("num_input_tokens", "INT32")
"""As an input: how many of a row's `input_ids` are its own; what follows them is padding."""
TOKEN_IDS = (PROMPT[2], NUM_INPUT_TOKENS._replace(is_optional=True))
TOKEN_TYPE_IDS = Tensor("token_type_ids", "INT32", (-1,), is_optional=True)
DIMENSIONS = Tensor("dimensions", "INT32", is_optional=True)
"""Embeddings are cut to so many dimensions; the same for all rows of a request."""
EMBEDDING = Tensor("embedding", "FP32", (-1,))
LABEL = Tensor("label", "BYTES", (-1,))
SCORE = Tensor("score", "FP32")


def _given(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors that are not optional."""
    return tuple(tensor._replace(is_optional=False) for tensor in tensors)


TASK_MODELS = {
    "embed": Model((TEXT, *TOKEN_IDS, DIMENSIONS), (EMBEDDING, NUM_INPUT_TOKENS)),
    "embed_tokenize": Model(_given(TEXT), _given(*TOKEN_IDS)),
    "embedding": Model((*_given(TEXT), DIMENSIONS), (EMBEDDING, NUM_INPUT_TOKENS)),
    "rerank": Model((QUERY, DOCUMENT, TOKEN_IDS[0], TOKEN_TYPE_IDS, TOKEN_IDS[1]),
                    (SCORE, NUM_INPUT_TOKENS)),
    "rerank_tokenize": Model(_given(QUERY, DOCUMENT),
                             _given(TOKEN_IDS[0], TOKEN_TYPE_IDS, TOKEN_IDS[1])),
    "reranking": Model(_given(QUERY, DOCUMENT), (SCORE, NUM_INPUT_TOKENS)),
    # All labels of a row, the likeliest first.
    "classify": Model((TEXT, *TOKEN_IDS),
                      (LABEL, SCORE._replace(dims=(-1,)), NUM_INPUT_TOKENS)),
}
"""Models of task_repository: one text or pair a row, up to 64 rows a request, one answer."""


def task_of(inputs: Set[str], outputs: Set[str], is_decoupled: bool) -> str | None:
    """What a model does, if it takes texts as well as token ids: the names of its tensors tell."""
    if is_decoupled and inputs >= {tensor.name for tensor in PROMPT}:
        return "generate"
    return next((task for task, model in TASK_MODELS.items() if "input_ids" in inputs
                 and inputs >= {tensor.name for tensor in model.inputs}
                 and outputs >= {tensor.name for tensor in model.outputs}), None)


@dataclass(frozen=True)
class Prompt:
    """Exactly one of a text, chat messages and token ids."""

    text: str | None = None
    messages: tuple[Mapping[str, Any], ...] | None = None
    ids: NDArray[np.int32] | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    """What the model may call, beside `messages`, as chat templates take it."""


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
    messages, tools = _chat(text)
    return Prompt(messages=messages, tools=tools)


def parse_options(
    tensors: Mapping[str, NDArray[Any]], parameters: Mapping[str, Any], triton_id: str = ""
) -> Options:
    """The options of a request; raises `InvalidArgument`.

    `tensors` may hold prompt tensors too; `parameters` are Triton's request parameters, and
    `triton_id` its request id, which stands in for a `request_id` that is not given.
    """
    parameters = {k: v for k, v in parameters.items() if k not in NO_OPTIONS}
    prompt_names = {tensor.name for tensor in PROMPT}
    given_tensors = {name: _tensor_value(name, values) for name, values in tensors.items()
                     if name not in prompt_names}
    json_text = parameters.pop(SAMPLING_PARAMETERS.name, "{}")
    json_text = given_tensors.pop(SAMPLING_PARAMETERS.name, json_text)
    values: dict[str, Any] = {"request_id": triton_id}
    for source in (_json_options(json_text), parameters, given_tensors):
        values |= _canonical(source)
    options = Options(**{name: option_value(name, value) for name, value in values.items()})
    if options.cancel and not options.request_id:
        raise InvalidArgument("request_id", "", "cancel needs the id of a running request")
    if options.n > 1 and not (options.stream or options.return_num_output_tokens):
        raise InvalidArgument("return_num_output_tokens", False,
                              "it tells apart the ids of n sequences in one response")
    _check_guide(options)
    return options


def _check_guide(options: Options) -> None:
    guides = [name for name in GUIDES if getattr(options, name)]
    if len(guides) > 1:
        raise InvalidArgument(guides[0], getattr(options, guides[0]),
                              f"{' and '.join(guides)} are given; give one of them")
    if guides and options.ignore_eos:
        raise InvalidArgument("ignore_eos", True, f"what {guides[0]} holds ends with its grammar")


def parse_traceparent(parameters: Mapping[str, Any]) -> str:
    """The context of a request's trace, empty if it has none; raises `InvalidArgument`."""
    given = parameters.get(TRACEPARENT, "")
    if given and not is_traceparent(given):
        raise InvalidArgument(TRACEPARENT, given, "allowed: 00-(32 hex digits)-(16)-(2), as W3C "
                              "has it, and not only zeros")
    return str(given)


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


def _chat(text: str) -> tuple[tuple[Mapping[str, Any], ...], tuple[Mapping[str, Any], ...]]:
    """Messages and tools of a chat: a list of messages, or {"messages": [...], "tools": [...]}."""
    allowed = 'it must be a JSON list of objects such as {"role": "user", "content": "Hi"}, or ' \
              'an object of such "messages" and a list of "tools"'
    try:
        chat = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidArgument("messages", text, allowed) from None
    if not isinstance(chat, dict):
        chat = {"messages": chat}
    messages, tools = chat.get("messages", []), chat.get("tools", [])
    is_chat = isinstance(messages, list) and messages and all(
        isinstance(message, dict) and isinstance(message.get("role"), str) and "content" in message
        for message in messages)
    has_tools = isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)
    if not is_chat or not has_tools or chat.keys() - {"messages", "tools"}:
        raise InvalidArgument("messages", text, allowed)
    return tuple(messages), tuple(tools)


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
