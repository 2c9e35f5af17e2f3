"""The options of a request: their names, types, ranges and defaults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from tritonlm.errors import InvalidArgument
from tritonlm.values import (
    bias_value,
    bool_value,
    float_value,
    int_value,
    schema_value,
    text_value,
)

PRIORITIES = ("urgent", "high", "normal", "low")
"""By number in the engine."""
MAX_LOGPROBS = 20
MAX_SEQUENCES = 128
MAX_LOGIT_BIAS = 1024
MAX_BAD_WORDS, MAX_BAD_WORD_TOKENS = 64, 16
MAX_GUIDE_CHARS = 131_072
JSON_WHITESPACE = r" ?|\n[ \t]{0,32}"
"""Between the parts of JSON that an answer is held to: without a bound it might never end."""
INT32_MAX = 2**31 - 1
UINT64_MAX = 2**64 - 1
VALUES: dict[str, Callable[[str, Any, str], Any]] = {
    "BYTES": text_value, "BOOL": bool_value, "INT32": int_value, "UINT64": int_value,
    "FP32": float_value}


def _option(
    default: Any, dtype: str, allowed: str, check: Callable[[Any], bool], is_list: bool = False,
    convert: Callable[[str, Any, str], Any] | None = None,
) -> Any:
    metadata = {"dtype": dtype, "allowed": allowed, "check": check, "is_list": is_list,
                "convert": convert or VALUES[dtype]}
    return field(default=default, metadata=metadata)


def _flag(default: bool) -> Any:
    return _option(default, "BOOL", "true or false", lambda _: True)


def _integer(default: int | None, least: int, most: int = INT32_MAX) -> Any:
    return _option(default, "INT32", f"{least} to {most}", lambda v: least <= v <= most)


def _positive() -> Any:
    return _integer(None, 1)


def _share(default: float) -> Any:
    return _option(default, "FP32", "more than 0, at most 1", lambda v: 0 < v <= 1)


def _penalty() -> Any:
    return _option(0.0, "FP32", "-2 to 2", lambda v: -2 <= v <= 2)


def _text(most_chars: int) -> Any:
    return _option("", "BYTES", f"at most {most_chars:,} characters",
                   lambda v: len(v) <= most_chars)


def _texts(most: int, most_chars: int) -> Any:
    return _option((), "BYTES", f"at most {most} texts of at most {most_chars:,} characters",
                   lambda v: len(v) <= most and all(len(text) <= most_chars for text in v), True)


@dataclass(frozen=True)
class Options:
    """What a request says beside its prompt; the fields' names are the contract's names."""

    max_tokens: int | None = _positive()
    min_tokens: int = _integer(0, 0)
    ignore_eos: bool = _flag(False)
    stop: tuple[str, ...] = _texts(16, 1024)
    stop_token_ids: tuple[int, ...] = _option(
        (), "INT32", f"at most 16 ids of 0 to {INT32_MAX}",
        lambda v: len(v) <= 16 and all(0 <= i <= INT32_MAX for i in v), True)
    include_stop_str_in_output: bool = _flag(False)
    truncate_prompt_tokens: int | None = _positive()
    temperature: float = _option(1.0, "FP32", "0 (greedy) to 100", lambda v: 0 <= v <= 100)
    top_p: float = _share(1.0)
    top_k: int = _option(0, "INT32", "-1 or 0 (all tokens), or 1 and more",
                         lambda v: -1 <= v <= INT32_MAX)
    min_p: float = _option(0.0, "FP32", "0 to 1", lambda v: 0 <= v <= 1)
    typical_p: float = _share(1.0)
    repetition_penalty: float = _option(1.0, "FP32", "more than 0, at most 100",
                                        lambda v: 0 < v <= 100)
    presence_penalty: float = _penalty()
    frequency_penalty: float = _penalty()
    logit_bias: tuple[tuple[int, float], ...] = _option(
        (), "BYTES", f"a JSON object of at most {MAX_LOGIT_BIAS:,} token ids, each with a bias of "
        "-100 to 100", lambda v: len(v) <= MAX_LOGIT_BIAS and all(
            0 <= i <= INT32_MAX and -100 <= bias <= 100 for i, bias in v), convert=bias_value)
    bad_words: tuple[str, ...] = _texts(MAX_BAD_WORDS, 256)
    guided_json: str = _option(
        "", "BYTES", f"a JSON schema of at most {MAX_GUIDE_CHARS:,} characters",
        lambda v: len(v) <= MAX_GUIDE_CHARS, convert=schema_value)
    guided_regex: str = _text(MAX_GUIDE_CHARS)
    guided_choice: tuple[str, ...] = _texts(1024, 1024)
    guided_grammar: str = _text(MAX_GUIDE_CHARS)
    seed: int | None = _option(None, "UINT64", f"0 to {UINT64_MAX}", lambda v: 0 <= v <= UINT64_MAX)
    n: int = _integer(1, 1, MAX_SEQUENCES)
    stream: bool = _flag(False)
    logprobs: int | None = _integer(None, 0, MAX_LOGPROBS)
    prompt_logprobs: int | None = _integer(None, 0, MAX_LOGPROBS)
    exclude_input_in_output: bool = _flag(True)
    return_num_input_tokens: bool = _flag(True)
    return_num_output_tokens: bool = _flag(True)
    return_finish_reason: bool = _flag(True)
    return_perf_metrics: bool = _flag(False)
    priority: str = _option("normal", "BYTES", f"one of {', '.join(PRIORITIES)}",
                            lambda v: v in PRIORITIES)
    user: str = _text(256)
    timeout_ms: int | None = _positive()
    request_id: str = _text(256)
    cancel: bool = _flag(False)


GUIDES = ("guided_json", "guided_regex", "guided_choice", "guided_grammar")
"""Options that hold an answer to a grammar; a request has at most one of them."""
OPTIONS = {option.name: option for option in fields(Options)}
ALIASES = {"stop_words": "stop", "num_logprobs": "logprobs"}
"""Other names of options: one of Triton's TensorRT-LLM backend, and one for a tensor."""
NO_TENSORS = frozenset({"logprobs"})
"""Options that no tensor is called after, because an output is."""


def option_value(name: str, value: Any) -> Any:
    """`value` in the type of the option `name`; raises `InvalidArgument`.

    Texts are taken if they parse exactly.
    """
    metadata = OPTIONS[name].metadata
    allowed, convert = metadata["allowed"], metadata["convert"]
    if metadata["is_list"]:
        items = value if isinstance(value, list | tuple) else [value]
        parsed: Any = tuple(convert(name, item, allowed) for item in items
                            if item not in ("", b""))
    else:
        parsed = convert(name, value, allowed)
    if not metadata["check"](parsed):
        raise InvalidArgument(name, value, f"allowed: {allowed}")
    return parsed
