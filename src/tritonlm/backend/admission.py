"""From a request to what the engine is asked for, or an error that names what is wrong."""

from __future__ import annotations

import json
import math
import secrets
import time

import numpy as np
from numpy.typing import NDArray

from tritonlm.backend.generation import Answer, Generation
from tritonlm.backend.logprobs import LogprobRecord
from tritonlm.backend.sequence import Sequence
from tritonlm.config import ModelConfig
from tritonlm.contract import Prompt
from tritonlm.engine.messages import Ready, Submit
from tritonlm.errors import InvalidArgument
from tritonlm.options import GUIDES, MAX_BAD_WORD_TOKENS, PRIORITIES, Options
from tritonlm.text.encoding import Encoder


class Admission:
    """Checks requests against the limits of the model, and tokenises them."""

    def __init__(self, config: ModelConfig, encoder: Encoder) -> None:
        self._config = config
        self._encoder = encoder

    def admit(
        self, answer: Answer, prompt: Prompt, options: Options, limits: Ready
    ) -> Generation:
        """The request as the engine will work for it; raises `InvalidArgument`."""
        prompt_ids = self._prompt_ids(prompt, options, limits)
        submit = self._submit(prompt_ids, options, limits)
        if options.n > self._config.max_sequences:
            raise InvalidArgument("n", options.n,
                                  f"allowed: 1 to max_sequences, {self._config.max_sequences}")
        sequences = [self._sequence(index, prompt_ids, options) for index in range(options.n)]
        return Generation(answer, options, submit, sequences)

    def _prompt_ids(
        self, prompt: Prompt, options: Options, limits: Ready
    ) -> NDArray[np.int32]:
        ids = self._encoder.encode(prompt)
        if options.truncate_prompt_tokens is not None:
            ids = ids[-options.truncate_prompt_tokens :]
        if ids.min() < 0 or ids.max() >= limits.vocab_size:
            wrong = next(i for i in ids.tolist() if not 0 <= i < limits.vocab_size)
            raise InvalidArgument("input_ids", wrong, f"allowed: 0 to {limits.vocab_size - 1}")
        return ids

    def _submit(
        self, prompt_ids: NDArray[np.int32], options: Options, limits: Ready
    ) -> Submit:
        timeout_s = math.inf if options.timeout_ms is None else options.timeout_ms / 1000
        seed = secrets.randbits(64) if options.seed is None else options.seed
        return Submit(
            key=0, request_id=options.request_id, token_ids=prompt_ids.tobytes(),
            max_tokens=self._max_tokens(options, prompt_ids.size, limits),
            temperature=options.temperature, top_p=options.top_p, top_k=max(options.top_k, 0),
            min_p=options.min_p, typical_p=options.typical_p, seed=seed,
            stop_token_ids=options.stop_token_ids, ignore_eos=options.ignore_eos,
            deadline_s=time.monotonic() + timeout_s,
            repetition_penalty=options.repetition_penalty,
            presence_penalty=options.presence_penalty,
            frequency_penalty=options.frequency_penalty, min_tokens=options.min_tokens,
            logit_bias=_known_biases(options, limits), banned=self._banned(options),
            num_logprobs=_count(options.logprobs),
            num_prompt_logprobs=_count(options.prompt_logprobs),
            priority=PRIORITIES.index(options.priority), user=options.user,
            guide=_guide(options))

    def _sequence(
        self, index: int, prompt_ids: NDArray[np.int32], options: Options
    ) -> Sequence:
        text = self._encoder.open_stream(
            stop=options.stop, include_stop=options.include_stop_str_in_output,
            prompt_ids=() if options.exclude_input_in_output else prompt_ids,
            num_early_ids=options.min_tokens)
        logprobs = LogprobRecord(self._encoder.token_texts, prompt_ids.size, options)
        return Sequence(index, prompt_ids, options, text, logprobs)

    def _max_tokens(self, options: Options, num_prompt: int, limits: Ready) -> int:
        """Output tokens that a sequence may have."""
        self._check_prompt(num_prompt, limits)
        room = limits.max_model_len - num_prompt
        most = self._config.max_output_tokens
        max_tokens = options.max_tokens or min(
            self._config.default_max_tokens, room, most or room)
        if most is not None and max_tokens > most:
            raise InvalidArgument("max_tokens", max_tokens,
                                  f"allowed: 1 to max_output_tokens, {most}")
        if max_tokens > room:
            raise InvalidArgument("max_tokens", max_tokens, f"allowed: 1 to {room}, which "
                                  f"is what the prompt's {num_prompt} tokens leave of the model's "
                                  f"{limits.max_model_len}")
        if options.min_tokens > max_tokens:
            raise InvalidArgument("min_tokens", options.min_tokens,
                                  f"allowed: 0 to max_tokens, {max_tokens}")
        return max_tokens

    def _check_prompt(self, num_tokens: int, limits: Ready) -> None:
        most = self._config.max_prompt_tokens
        if most is not None and num_tokens > most:
            raise InvalidArgument("prompt", f"{num_tokens} tokens",
                                  f"allowed: 1 to max_prompt_tokens, {most}")
        if num_tokens >= limits.max_model_len:
            raise InvalidArgument("prompt", f"{num_tokens} tokens", f"allowed: 1 to "
                                  f"{limits.max_model_len - 1}, so that one more fits the model's "
                                  f"{limits.max_model_len}")

    def _banned(self, options: Options) -> tuple[tuple[int, ...], ...]:
        """The spellings of the bad words."""
        banned: list[tuple[int, ...]] = []
        for word in options.bad_words:
            spellings = self._encoder.spellings(word)
            if max(map(len, spellings), default=0) > MAX_BAD_WORD_TOKENS:
                raise InvalidArgument("bad_words", word,
                                      f"allowed: at most {MAX_BAD_WORD_TOKENS} tokens a text")
            banned += spellings
        return tuple(banned)


def _known_biases(options: Options, limits: Ready) -> tuple[tuple[int, float], ...]:
    for token_id, _ in options.logit_bias:
        if token_id >= limits.vocab_size:
            raise InvalidArgument("logit_bias", token_id,
                                  f"allowed: token ids of 0 to {limits.vocab_size - 1}")
    return options.logit_bias


def _guide(options: Options) -> tuple[str, str] | None:
    given = {name: getattr(options, name) for name in GUIDES}
    for name, value in given.items():
        if value:
            return name, value if isinstance(value, str) else json.dumps(value)
    return None


def _count(option: int | None) -> int:
    """As the engine has it: -1 asks for nothing."""
    return -1 if option is None else option
