"""The messages of a chat."""

from __future__ import annotations

from collections.abc import Sequence

from tritonlm_client.results import Chunk


class Conversation:
    """The messages so far; a question stays only if something was answered to it."""

    def __init__(self, system: str | None = None) -> None:
        self._opening = [{"role": "system", "content": system}] if system else []
        self.messages = list(self._opening)

    def with_question(self, text: str) -> list[dict[str, str]]:
        """What to send for an answer to `text`."""
        return [*self.messages, {"role": "user", "content": text}]

    def add(self, question: str, answer: str) -> None:
        """Keep a question and its answer, which may be a part of one; an empty one is not kept."""
        if answer:
            self.messages = [*self.with_question(question),
                             {"role": "assistant", "content": answer}]

    def reset(self) -> None:
        """Forget all but the system message."""
        self.messages = list(self._opening)


def answer_of(chunks: Sequence[Chunk]) -> str:
    """The text of an answer's first sequence; one that was begun again counts from there."""
    first = [chunk for chunk in chunks if chunk.sequence_index == 0]
    begun = max((place for place, chunk in enumerate(first) if chunk.index == 0), default=0)
    return "".join(chunk.text for chunk in first[begun:])
