"""Server-sent events: Triton's own `/generate_stream`, and the gateway's."""

from __future__ import annotations

import json
from typing import Any

from loadtests.users.conduct import Conduct
from loadtests.users.http_user import HttpUser
from loadtests.users.language_user import RequestFailed

EVENT = b"data: "


class SseUser(HttpUser):
    """Asks the gateway."""

    kind = "sse"

    def ask(self, conduct: Conduct) -> None:
        """One request, read event by event."""
        body = {"text_input": conduct.prompt, "max_tokens": conduct.max_tokens,
                "priority": conduct.priority, "ignore_eos": True}
        with self.post(*self.target(body), is_stream=True) as response:
            for line in response.iter_lines(chunk_size=None):
                if line.startswith(EVENT):
                    event = json.loads(line.removeprefix(EVENT))
                    if "error" in event:
                        raise RequestFailed(str(event["error"]))
                    conduct.chunk(event["num_output_tokens"])
                    conduct.pause()

    def target(self, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Where to post what."""
        return f"{self.host}/generate_stream", {**body, "model": self.settings.model}


class TritonSseUser(SseUser):
    """Asks Triton."""

    kind = "triton-sse"

    def target(self, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """The same, with Triton's path."""
        path = f"v2/models/{self.settings.model}/generate_stream"
        return f"http://{self.settings.http_url}/{path}", {**body, "stream": True}
