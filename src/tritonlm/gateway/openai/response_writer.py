"""Responses as OpenAI has them, in events or as a whole."""

from __future__ import annotations

import time
from typing import Any
from uuid import uuid4

from tritonlm.gateway.answers import Answers
from tritonlm.gateway.cached_answers import CachedAnswers
from tritonlm.gateway.events import encoded
from tritonlm.gateway.pieces import Piece
from tritonlm.gateway.usage import Usage

STATUSES = {"": "in_progress", "stop": "completed", "cancelled": "cancelled"}
"""By finish_reason; what is cut short otherwise is incomplete."""
REASONS = {"length": "max_output_tokens"}


class ResponseWriter:
    """Writes one response; see `Writer`."""

    def __init__(self, told: dict[str, Any]) -> None:
        """`told` is what the response says of its call."""
        self.usage = Usage()
        self._head = {"id": f"resp_{uuid4().hex}", "object": "response",
                      "created_at": int(time.time()), **told}
        self._item_id = f"msg_{uuid4().hex}"
        self._text = ""
        self._finish_reason = ""
        self._num_events = 0

    def events(self, prompt: int, piece: Piece) -> list[bytes]:
        """Data of the events that tell of `piece`."""
        opening = [] if self._num_events else self._opening()
        self._take(prompt, piece)
        return [*opening, self._part_event("output_text.delta", delta=piece.text, logprobs=[])]

    def closing(self) -> list[bytes]:
        """Data of the events after the last piece."""
        response = self._response()
        end = "completed" if response["status"] == "completed" else "incomplete"
        return [
            self._part_event("output_text.done", text=self._text, logprobs=[]),
            self._part_event("content_part.done", part=self._part()),
            self._event("output_item.done", output_index=0, item=self._item()),
            self._event(end, response=response)]

    async def whole(self, answers: Answers | CachedAnswers) -> bytes:
        """The body that tells of the answer; raises `ServingError`."""
        async for pieces in answers:
            for prompt, piece in pieces:
                self._take(prompt, piece)
        return encoded(self._response())

    def _take(self, prompt: int, piece: Piece) -> None:
        self.usage.count(prompt, piece)
        self._text += piece.text
        self._finish_reason = piece.finish_reason

    def _opening(self) -> list[bytes]:
        """Data of the events before the first piece."""
        return [
            self._event("created", response=self._response()),
            self._event("in_progress", response=self._response()),
            self._event("output_item.added", output_index=0, item=self._item() | {"content": []}),
            self._part_event("content_part.added", part=self._part())]

    def _part_event(self, kind: str, **fields: Any) -> bytes:
        return self._event(kind, item_id=self._item_id, output_index=0, content_index=0, **fields)

    def _event(self, kind: str, **fields: Any) -> bytes:
        number, self._num_events = self._num_events, self._num_events + 1
        return encoded({"type": f"response.{kind}", "sequence_number": number, **fields})

    @property
    def _status(self) -> str:
        return STATUSES.get(self._finish_reason, "incomplete")

    def _response(self) -> dict[str, Any]:
        status, reason = self._status, self._finish_reason
        is_begun = status != "in_progress"
        return {
            **self._head, "status": status, "error": None,
            "incomplete_details": ({"reason": REASONS.get(reason, reason)}
                                   if status == "incomplete" else None),
            "output": [self._item()] if is_begun else [],
            "usage": self._usage() if is_begun else None}

    def _item(self) -> dict[str, Any]:
        status = self._status if self._status in {"in_progress", "completed"} else "incomplete"
        return {"id": self._item_id, "type": "message", "role": "assistant", "status": status,
                "content": [self._part()]}

    def _part(self) -> dict[str, Any]:
        return {"type": "output_text", "text": self._text, "annotations": [], "logprobs": []}

    def _usage(self) -> dict[str, Any]:
        num_input, num_output = self.usage.num_input_tokens, self.usage.num_output_tokens
        return {"input_tokens": num_input,
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": num_output, "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": num_input + num_output}
