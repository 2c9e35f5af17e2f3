"""Embeddings, from the gateway."""

from __future__ import annotations

from loadtests.users.conduct import Conduct
from loadtests.users.http_user import HttpUser


class EmbeddingsUser(HttpUser):
    """Asks for the embedding of a text."""

    kind = "embeddings"
    is_stream = False

    def ask(self, conduct: Conduct) -> None:
        """One text."""
        with self.post(f"{self.host}/v1/embeddings", {
                "model": self.settings.embedding_model, "input": conduct.prompt}) as response:
            assert response.json()["data"][0]["embedding"]
            conduct.chunk()
