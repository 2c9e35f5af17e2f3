"""Prompts as OpenAI takes them: a text, token ids, or a list of either."""

from __future__ import annotations

from typing import Any

from tritonlm.errors import InvalidArgument
from tritonlm.options import INT32_MAX


def read_prompts(name: str, given: Any, max_prompts: int) -> list[str | list[int]]:
    """The prompts in the field `name`; raises `InvalidArgument`."""
    is_one = isinstance(given, str) or _are_ids(given)
    prompts: list[str | list[int]] = given if isinstance(given, list) and not is_one else [given]
    is_allowed = all(isinstance(prompt, str) or _are_ids(prompt) for prompt in prompts)
    if not (is_allowed and 1 <= len(prompts) <= max_prompts):
        raise InvalidArgument(name, given, "allowed: a text, token ids, or a list of 1 to "
                              f"{max_prompts} of either")
    return prompts


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(map(_is_id, value))


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= INT32_MAX
