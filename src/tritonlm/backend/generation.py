"""One request in a front end, from Triton's request to its one final response."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from tritonlm.backend.tensors import error_response, model_response
from tritonlm.contract import FINISH_REASONS, MODELS
from tritonlm.engine.messages import Submit
from tritonlm.options import Options
from tritonlm.text.stream import Chunk, TextStream

GENERATE = MODELS["generate"]
STOP, CANCELLED = FINISH_REASONS.index("stop"), FINISH_REASONS.index("cancelled")
FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
TEXT_OUTPUTS = frozenset({"text_output", "detokenize_ids", "detokenize_span"})


class Answer:
    """Where the responses of one request go; used by the sending thread alone.

    It is finished exactly once, with the last data or with an error.
    """

    def __init__(self, request: pb_utils.InferenceRequest) -> None:
        self._sender = request.get_response_sender()
        self.requested = frozenset(request.requested_output_names())
        self.is_finished = False

    def send(self, values: dict[str, Any], is_final: bool) -> None:
        """Send the requested ones of `values`."""
        assert not self.is_finished, "a response after the final one"
        self.is_finished = is_final
        self._sender.send(model_response(GENERATE, values, self.requested),
                          flags=FINAL if is_final else 0)

    def fail(self, error: Exception) -> None:
        """End with `error`."""
        assert not self.is_finished, "a response after the final one"
        self.is_finished = True
        self._sender.send(error_response(error), flags=FINAL)

    def is_abandoned(self) -> bool:
        """Whether the client has hung up; asks the server, which takes about 0.1 ms."""
        return bool(self._sender.is_cancelled())


class Generation:
    """A request that the engine works for: its ids in, its responses out."""

    def __init__(
        self, answer: Answer, prompt_ids: NDArray[np.int32], options: Options, text: TextStream,
        max_tokens: int, deadline_s: float, banned: tuple[tuple[int, ...], ...] = (),
    ) -> None:
        self.answer = answer
        self.options = options
        self.deadline_s = deadline_s
        self.is_submitted = False
        self._prompt_ids = prompt_ids
        self._max_tokens = max_tokens
        self._banned = banned
        self._text = text
        self._shown_text = ""
        self._ids: list[int] = []
        self._num_taken = 0
        self._num_sent = 0
        self._num_chunks = 0
        self._reason = 0

    def submission(self, key: int) -> Submit:
        """The request as the engine gets it."""
        options = self.options
        seed = secrets.randbits(64) if options.seed is None else options.seed
        self.is_submitted = True
        return Submit(
            key=key, request_id=options.request_id, token_ids=self._prompt_ids.tobytes(),
            max_tokens=self._max_tokens, temperature=options.temperature, top_p=options.top_p,
            top_k=max(options.top_k, 0), min_p=options.min_p, seed=seed,
            stop_token_ids=options.stop_token_ids, ignore_eos=options.ignore_eos,
            deadline_s=self.deadline_s, typical_p=options.typical_p,
            repetition_penalty=options.repetition_penalty,
            presence_penalty=options.presence_penalty,
            frequency_penalty=options.frequency_penalty, min_tokens=options.min_tokens,
            logit_bias=options.logit_bias, banned=self._banned)

    def take(self, token_id: int, reason: int) -> None:
        """News from the engine; nothing is sent yet."""
        if token_id >= 0:
            self._ids.append(token_id)
        self._reason = reason

    def end(self, reason: str) -> None:
        """The request is over for a reason that the engine does not know of."""
        self._reason = FINISH_REASONS.index(reason)

    @property
    def finish_reason(self) -> str:
        """Why the request is over; empty while it is not."""
        return FINISH_REASONS[self._reason]

    @property
    def num_output_tokens(self) -> int:
        """Tokens so far."""
        return len(self._ids)

    def deliver(self) -> None:
        """Send what has come in if it makes a response; the final one if the request is over."""
        chunk = self._next_chunk()
        if chunk.is_stopped and self._reason != CANCELLED:
            del self._ids[self._num_taken + chunk.num_ids :]
            self.end("stop")
        self._num_taken = len(self._ids)
        if self.options.stream:
            is_held_back = not chunk.text and TEXT_OUTPUTS & self.answer.requested
            if self._reason or not is_held_back:
                self._send(chunk.text, self._ids[self._num_sent :], chunk.window, chunk.span)
            return
        self._shown_text += chunk.text
        if self._reason:
            prompt_ids = [] if self.options.exclude_input_in_output else self._prompt_ids.tolist()
            self._send(self._shown_text, self._ids, [*prompt_ids, *self._ids],
                       (0, len(self._shown_text)))

    def _next_chunk(self) -> Chunk:
        """The text of the ids that came since the last call; a stop token has none."""
        ids = self._ids[self._num_taken :]
        if self._reason == STOP and not self.options.include_stop_str_in_output:
            ids.pop()
        return self._text.push(ids, is_final=self._reason != 0)

    def _send(
        self, text: str, ids: Sequence[int], window: Sequence[int] | NDArray[np.int32],
        span: tuple[int, int],
    ) -> None:
        options = self.options
        self.answer.send({
            "text_output": text,
            "output_ids": ids,
            "chunk_index": self._num_chunks,
            "finish_reason": [self.finish_reason] if options.return_finish_reason else [],
            "num_input_tokens": (
                [self._prompt_ids.size] if options.return_num_input_tokens else []),
            "num_output_tokens": (
                [len(self._ids)] if options.return_num_output_tokens else []),
            "sequence_index": 0,
            "logprobs": [],
            "detokenize_ids": window,
            "detokenize_span": span,
            "detokenize_num_ids": len(window),
        }, is_final=self._reason != 0)
        self._num_chunks += 1
        self._num_sent = len(self._ids)
