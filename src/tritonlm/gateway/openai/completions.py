"""`/v1/completions`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from tritonlm.errors import InvalidArgument
from tritonlm.gateway.body import Body
from tritonlm.gateway.openai.call import ChoicesCall, StreamOptions
from tritonlm.gateway.openai.logprobs import CompletionLogprobs
from tritonlm.gateway.openai.prompts import read_prompts
from tritonlm.gateway.pieces import Piece
from tritonlm_client import Prompt

DEFAULT_MAX_TOKENS = 16
"""OpenAI's own."""
MAX_PROMPTS = 1024
NAMES = {"text_input": "prompt", "input_ids": "prompt", "prompt_logprobs": "logprobs"}


class CompletionBody(Body, frozen=True):
    """What a client sends beside the options of generation."""

    model: str
    prompt: Any
    stream: bool = False
    stream_options: StreamOptions | None = None
    logprobs: int | None = None
    echo: bool = False
    best_of: int | None = None


class CompletionForm:
    """How completions are written."""

    id_prefix: ClassVar = "cmpl-"
    whole_object: ClassVar = "text_completion"
    chunk_object: ClassVar = "text_completion"

    def __init__(self, num_logprobs: int | None, prompts: Sequence[Prompt]) -> None:
        self._num_logprobs = num_logprobs
        self._prompts = prompts
        self._logprobs: dict[int, CompletionLogprobs] = {}
        self._echoed: dict[int, list[Any]] = {}

    def chunk_choice(self, index: int, prompt: int, piece: Piece) -> dict[str, Any]:
        """A choice in an event; in a whole answer it is the same."""
        return {"index": index, "text": piece.text, "logprobs": self._told(index, prompt, piece),
                "finish_reason": piece.finish_reason or None}

    whole_choice = chunk_choice

    def _told(self, index: int, prompt: int, piece: Piece) -> dict[str, Any] | None:
        if self._num_logprobs is None:
            return None
        if index not in self._logprobs:
            text = self._prompts[prompt]
            self._logprobs[index] = CompletionLogprobs(
                self._num_logprobs, text if isinstance(text, str) else None,
                self._echoed.setdefault(prompt, []))
        return self._logprobs[index].read(piece.logprobs, piece.text)


def completion_call(body: CompletionBody, options: dict[str, Any]) -> ChoicesCall:
    """What is asked for; raises `InvalidArgument`."""
    if body.best_of is not None and body.best_of != options.get("n", 1):
        raise InvalidArgument("best_of", body.best_of, "not supported; allowed: what n is")
    options.setdefault("max_tokens", DEFAULT_MAX_TOKENS)
    if body.logprobs is not None:
        options["logprobs"] = body.logprobs
    if body.echo:
        options["exclude_input_in_output"] = False
        if body.logprobs is not None:
            options["prompt_logprobs"] = body.logprobs
    prompts = tuple(read_prompts("prompt", body.prompt, MAX_PROMPTS))
    return ChoicesCall(body.model, prompts, options, body.stream, NAMES,
                       CompletionForm(body.logprobs, prompts), body.stream_options)
