"""One request in a front end, from Triton's request to its one final response."""

from __future__ import annotations

import math
import time
from itertools import chain
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from msgspec.structs import replace

from tritonlm.backend.metrics import FrontEndMetrics
from tritonlm.backend.sequence import Part, Sequence
from tritonlm.backend.tensors import error_response, model_response, readable_id
from tritonlm.backend.time_budget import TimeBudget
from tritonlm.contract import Model
from tritonlm.engine.messages import Submit
from tritonlm.options import Options

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
CUT_SHORT = frozenset({"cancelled", "deadline"})
TEXT_OUTPUTS = frozenset({"text_output", "detokenize_ids", "detokenize_span"})
CANCELLED_VALUES = {
    "text_output": "", "output_ids": [], "chunk_index": 0, "finish_reason": ["cancelled"],
    "num_input_tokens": [], "num_output_tokens": [], "sequence_index": 0, "logprobs": [],
    "perf_metrics": [], "detokenize_ids": [], "detokenize_span": [0, 0], "detokenize_num_ids": 0,
    "prompt_index": 0,
}
"""What a request to cancel others is answered with."""

LARGE_TOKENS = 1024
"""Responses with more have no final flag, but one after them: there may be no shared memory for
them, and a response that fails with the flag on it can be followed by no error."""


class Answer:
    """Where the responses of one request go; used by the sending thread alone.

    It is finished exactly once, with the last data or with an error.
    """

    def __init__(
        self, request: pb_utils.InferenceRequest, model: Model, is_cached: bool = False
    ) -> None:
        """An answer that `is_cached` is that of other requests too."""
        self.is_cached = is_cached
        self._model = model
        self._sender = request.get_response_sender()
        self.requested = frozenset(request.requested_output_names())
        self.prompt_index = 0
        """Among the prompts of the request."""
        self.budget = TimeBudget()
        self.request_id = readable_id(request)
        self.traceparent = ""
        """The context of the trace that the request belongs to; empty if it is none's."""
        self.is_finished = False
        self._is_spent = False
        """Whether Triton takes no further response: in its default mode there is one."""

    def send(self, values: dict[str, Any], is_final: bool) -> None:
        """Send the requested ones of `values`."""
        assert not self.is_finished, "a response after the final one"
        began_s = time.monotonic()
        if math.isnan(self.budget.first_send_s):
            self.budget.first_send_s = began_s
        is_large = np.size(values["output_ids"]) > LARGE_TOKENS
        if self.is_cached:
            values = _cacheable(values, self.requested)
        response = model_response(self._model, values, self.requested)
        self._is_spent = not self._model.is_decoupled
        self._sender.send(response, flags=FINAL if is_final and not is_large else 0)
        if is_final and is_large:
            self._sender.send(flags=FINAL)
        self.is_finished = is_final
        self.budget.send_s += time.monotonic() - began_s

    def fail(self, error: Exception) -> None:
        """End with `error`, or with Triton's own where the one response failed on its way."""
        assert not self.is_finished, "a response after the final one"
        if self._is_spent:
            self._sender.send(flags=FINAL)
        else:
            self._sender.send(error_response(error, self.request_id), flags=FINAL)
        self.is_finished = True

    def is_abandoned(self) -> bool:
        """Whether the client has hung up; asks the server, which takes about 0.1 ms."""
        return bool(self._sender.is_cancelled())


class Generation:
    """A request that the engine works for: `n` sequences of one prompt, and their responses."""

    def __init__(
        self, answer: Answer, options: Options, submit: Submit, sequences: list[Sequence]
    ) -> None:
        """Sequence 0 is as `submit`; the others differ from it in key and seed."""
        self.answer = answer
        self.options = options
        self.sequences = sequences
        self.keys = range(0)
        """Those of the sequences in the engine, in order."""
        self.is_submitted = False
        self.num_prompt_tokens = submit.num_prompt_tokens
        self._submit = submit
        self._counted_s = math.nan
        """When tokens were counted last."""
        self.sent_s = 0.0
        """When the last response was sent, on the monotonic clock; 0: there was none."""

    @property
    def deadline_s(self) -> float:
        """When the engine ends it, on the monotonic clock."""
        return self._submit.deadline_s

    @property
    def is_over(self) -> bool:
        """Whether all sequences are over."""
        return all(sequence.finish_reason for sequence in self.sequences)

    @property
    def finish_reason(self) -> str:
        """Why its first sequence is over."""
        return self.sequences[0].finish_reason

    @property
    def num_output_tokens(self) -> int:
        """Tokens of all sequences so far."""
        return sum(sequence.num_tokens for sequence in self.sequences)

    def enter(self, first_key: int) -> None:
        """Give the sequences keys."""
        self.keys = range(first_key, first_key + len(self.sequences))

    def submissions(self) -> list[Submit]:
        """The sequences as the engine gets them."""
        self.is_submitted = True
        first, *others = self.keys
        return [replace(self._submit, key=first), *(
            replace(self._submit, key=key, seed=(self._submit.seed + place) % 2**64,
                    num_prompt_logprobs=-1)
            for place, key in enumerate(others, start=1))]

    def sequence(self, key: int) -> Sequence:
        """The sequence of `key`."""
        return self.sequences[key - self.keys.start]

    def take(self, key: int, token_id: int, reason: int) -> None:
        """News from the engine of the sequence of `key`; nothing is sent yet."""
        sequence = self.sequence(key)
        if not sequence.finish_reason:
            sequence.take(token_id, reason)

    def end(self, reason: str) -> None:
        """Whatever is not over ends for a reason that the engine does not know of."""
        for sequence in self.sequences:
            if not sequence.finish_reason:
                sequence.end(reason)

    def deliver(self, metrics: FrontEndMetrics) -> list[int]:
        """Send what has come in if it makes responses; the final one if the request is over.

        Returns the keys that the engine need not go on with: a stop text has ended them.
        """
        fresh = [sequence for sequence in self.sequences if sequence.has_news]
        self._count_tokens(sum(sequence.count_new() for sequence in fresh), metrics)
        if not (self.options.stream or self.options.stop or self.is_over):
            return []
        began_s = time.perf_counter()
        stopped = [self.keys[sequence.index] for sequence in fresh if sequence.advance()]
        self.answer.budget.detokenize_s += time.perf_counter() - began_s
        if self.options.stream:
            may_wait = bool(TEXT_OUTPUTS & self.answer.requested)
            ready = [sequence for sequence in fresh if not (may_wait and sequence.is_held_back)]
            for sequence in ready:
                is_final = sequence is ready[-1] and self.is_over
                part = sequence.next_part()
                self._send([sequence], [part], sequence.num_parts - 1, is_final)
                metrics.count("tritonlm_chunks_total")
                metrics.count("tritonlm_coalesced_tokens_total", amount=max(len(part.ids) - 1, 0))
        elif self.is_over:
            self._send(self.sequences, [sequence.whole() for sequence in self.sequences], 0, True)
        return stopped

    def _count_tokens(self, num_new: int, metrics: FrontEndMetrics) -> None:
        if num_new == 0:
            return
        now_s, budget = time.monotonic(), self.answer.budget
        if math.isnan(self._counted_s):
            metrics.observe("tritonlm_time_to_first_token_seconds", now_s - budget.received_s)
            metrics.observe("tritonlm_queue_seconds", budget.queue_s)
            metrics.count("tritonlm_prompt_tokens_total", amount=self.num_prompt_tokens)
        else:
            metrics.observe("tritonlm_inter_token_seconds",
                            (now_s - self._counted_s) / num_new, num_new)
        self._counted_s = now_s
        metrics.count("tritonlm_output_tokens_total", amount=num_new)

    def _send(
        self, sequences: list[Sequence], parts: list[Part], chunk_index: int, is_final: bool
    ) -> None:
        options = self.options
        self.answer.send({
            "text_output": [part.text for part in parts],
            "output_ids": list(chain.from_iterable(part.ids for part in parts)),
            "chunk_index": chunk_index,
            "finish_reason": ([sequence.finish_reason for sequence in sequences]
                              if options.return_finish_reason else []),
            "num_input_tokens": (
                [self.num_prompt_tokens] if options.return_num_input_tokens else []),
            "num_output_tokens": ([sequence.num_tokens for sequence in sequences]
                                  if options.return_num_output_tokens else []),
            "sequence_index": [sequence.index for sequence in sequences],
            "logprobs": [part.logprobs for part in parts if part.logprobs],
            "perf_metrics": [self.answer.budget.to_json(
                self.num_prompt_tokens, self.num_output_tokens,
            )] if is_final and options.return_perf_metrics else [],
            "detokenize_ids": np.concatenate([part.window for part in parts]),
            "detokenize_span": list(chain.from_iterable(part.span for part in parts)),
            "detokenize_num_ids": [len(part.window) for part in parts],
            "prompt_index": self.answer.prompt_index,
        }, is_final)
        self.sent_s = time.monotonic()


def _cacheable(values: dict[str, Any], requested: frozenset[str]) -> dict[str, Any]:
    """Those of `values` that a cache may keep.

    Triton keeps no answer that has an empty output. So what is empty is left out, unless the answer
    was cut short: then its text is empty, or if that is not `requested`, all is, and nobody else
    gets it.
    """
    if not CUT_SHORT.isdisjoint(np.ravel(values["finish_reason"])):
        empty = requested & {"text_output", "output_ids"} or requested
        return values | {name: [] for name in empty}
    return {name: value for name, value in values.items() if np.size(value)}
