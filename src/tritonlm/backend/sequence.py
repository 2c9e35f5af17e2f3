"""One of the sequences that a request asks for: its ids in, its text out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tritonlm.backend.logprobs import LogprobRecord
from tritonlm.contract import FINISH_REASONS
from tritonlm.options import Options
from tritonlm.text.stream import Chunk, Ids, TextStream

STOP, CANCELLED = FINISH_REASONS.index("stop"), FINISH_REASONS.index("cancelled")


class Part(NamedTuple):
    """What a response says of a sequence."""

    text: str
    ids: list[int]
    window: Ids
    """Ids whose text has `text` at `span`."""
    span: tuple[int, int]
    logprobs: str


class Sequence:
    """Ids and text of one sequence, taken in and given out piece by piece."""

    def __init__(
        self, index: int, prompt_ids: NDArray[np.int32], options: Options, text: TextStream,
        logprobs: LogprobRecord,
    ) -> None:
        self.index = index
        self.logprobs = logprobs
        self.has_news = False
        self.num_parts = 0
        self._prompt_ids = prompt_ids
        self._options = options
        self._text = text
        self._whole_text = ""
        self._chunk = Chunk("", np.empty(0, np.int32), (0, 0), False, 0)
        self._ids: list[int] = []
        self._num_taken = 0
        self._num_counted = 0
        self._num_sent = 0
        self._reason = 0

    @property
    def finish_reason(self) -> str:
        """Why the sequence is over; empty while it is not."""
        return FINISH_REASONS[self._reason]

    @property
    def num_tokens(self) -> int:
        """Output tokens so far."""
        return len(self._ids)

    @property
    def is_held_back(self) -> bool:
        """Whether the last ids have no text to show yet."""
        return not (self._chunk.text or self._reason)

    def take(self, token_id: int, reason: int) -> None:
        """News from the engine: a token, or -1, and a code of `FINISH_REASONS`."""
        if token_id >= 0:
            self._ids.append(token_id)
        self._reason = reason
        self.has_news = True

    def end(self, reason: str) -> None:
        """The sequence is over for a reason that the engine does not know of."""
        self._reason = FINISH_REASONS.index(reason)
        self.has_news = True

    def count_new(self) -> int:
        """Output tokens since the last call."""
        num_counted, self._num_counted = self._num_counted, len(self._ids)
        return self._num_counted - num_counted

    def advance(self) -> bool:
        """Turn the news into text; whether a stop text has ended what the engine goes on with."""
        was_over = self._reason != 0
        chunk = self._chunk = self._next_chunk()
        if chunk.is_stopped and self._reason != CANCELLED:
            del self._ids[self._num_taken + chunk.num_ids :]
            self.end("stop")
        self._num_taken = len(self._ids)
        if not self._options.stream:
            self._whole_text += chunk.text
        self.has_news = False
        return not was_over and self._reason != 0

    def next_part(self) -> Part:
        """What has come since the last part."""
        first, self._num_sent = self._num_sent, len(self._ids)
        self.num_parts += 1
        return Part(self._chunk.text, self._ids[first:], self._chunk.window, self._chunk.span,
                    self._logprobs_since(first))

    def whole(self) -> Part:
        """All that there is."""
        prompt_ids = [] if self._options.exclude_input_in_output else self._prompt_ids.tolist()
        return Part(self._whole_text, self._ids, [*prompt_ids, *self._ids],
                    (0, len(self._whole_text)), self._logprobs_since(0))

    def _logprobs_since(self, first: int) -> str:
        is_asked = not (self._options.logprobs is None and self._options.prompt_logprobs is None)
        with_prompt = self.index == 0 and self.num_parts <= 1
        return self.logprobs.to_json(first, len(self._ids), with_prompt) if is_asked else ""

    def _next_chunk(self) -> Chunk:
        """The text of the ids that came since the last call; a stop token has none."""
        ids = self._ids[self._num_taken :]
        if self._reason == STOP and not self._options.include_stop_str_in_output:
            ids.pop()
        return self._text.push(ids, is_final=self._reason != 0)
