"""Many prompts in one request, of low priority, answered as a whole."""

from __future__ import annotations

from loadtests.users.conduct import Conduct
from loadtests.users.http_user import HttpUser
from loadtests.users.language_user import RequestFailed

NUM_PROMPTS = 8


class BatchUser(HttpUser):
    """Asks the gateway for several completions at once."""

    kind = "batch"
    is_stream = False

    def ask(self, conduct: Conduct) -> None:
        """One list of prompts."""
        prompts = [conduct.prompt, *(self.behaviour.prompt() for _ in range(NUM_PROMPTS - 1))]
        with self.post(f"{self.host}/v1/completions", {
                "model": self.settings.model, "prompt": prompts, "ignore_eos": True,
                "max_tokens": conduct.max_tokens, "priority": "low"}) as response:
            answer = response.json()
        if len(answer["choices"]) != NUM_PROMPTS:
            raise RequestFailed(f"{len(answer['choices'])} of {NUM_PROMPTS} prompts were answered")
        conduct.chunk(answer["usage"]["completion_tokens"])
