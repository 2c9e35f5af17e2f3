"""Chats with OpenAI's own client library."""

from __future__ import annotations

from typing import Any

from openai import OpenAI

from loadtests.users.conduct import Conduct
from loadtests.users.language_user import ANSWER_TIMEOUT_S, LanguageUser


class OpenAIChatUser(LanguageUser):
    """Asks the gateway for streams."""

    kind = "openai"

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self._client = OpenAI(base_url=f"{self.host}/v1", timeout=ANSWER_TIMEOUT_S, max_retries=0,
                              api_key=self.settings.api_key or "none")

    def ask(self, conduct: Conduct) -> None:
        """One chat, read chunk by chunk."""
        with self._client.chat.completions.create(
            model=self.settings.model, messages=[{"role": "user", "content": conduct.prompt}],
            max_tokens=conduct.max_tokens, stream=True, stream_options={"include_usage": True},
            extra_body={"priority": conduct.priority, "ignore_eos": True},
        ) as stream:
            for event in stream:
                if event.usage is not None:
                    conduct.num_output_tokens = event.usage.completion_tokens
                elif event.choices:
                    conduct.chunk()
                    conduct.pause()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
