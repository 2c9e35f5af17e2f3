"""A chat: each question is sent with all that was said before."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

from tritonlm_client.async_stream import AsyncStream
from tritonlm_client.conversation import Conversation, answer_of
from tritonlm_client.results import Chunk
from tritonlm_client.stream import Stream


class Chat(Conversation):
    """A chat with a model: `for chunk in chat.ask("Who goes there?")`."""

    def __init__(self, open_stream: Callable[..., Stream], system: str | None) -> None:
        super().__init__(system)
        self._open_stream = open_stream

    def ask(self, question: str, **options: Any) -> Iterator[Chunk]:
        """The answer to `question`; what of it was read is kept when the iteration ends."""
        said: list[Chunk] = []
        try:
            with self._open_stream(self.with_question(question), **options) as stream:
                for chunk in stream:
                    said.append(chunk)
                    yield chunk
        finally:
            self.add(question, answer_of(said))


class AsyncChat(Conversation):
    """As `Chat`, for asyncio: `async for chunk in chat.ask("Who goes there?")`."""

    def __init__(self, open_stream: Callable[..., AsyncStream], system: str | None) -> None:
        super().__init__(system)
        self._open_stream = open_stream

    async def ask(self, question: str, **options: Any) -> AsyncGenerator[Chunk, None]:
        """The answer to `question`; what of it was read is kept when the iteration ends."""
        said: list[Chunk] = []
        try:
            async with self._open_stream(self.with_question(question), **options) as stream:
                async for chunk in stream:
                    said.append(chunk)
                    yield chunk
        finally:
            self.add(question, answer_of(said))
