"""The gateway's WebSocket."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import websocket

from loadtests.users.conduct import Conduct
from loadtests.users.language_user import ANSWER_TIMEOUT_S, LanguageUser, RequestFailed
from loadtests.users.pool import Pool


class WebSocketUser(LanguageUser):
    """Asks over a socket that stays open, one request at a time on each."""

    kind = "websocket"

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self._pool = Pool(self._connect)

    def ask(self, conduct: Conduct) -> None:
        """One request, read message by message."""
        request_id = uuid4().hex
        with self._pool.lend() as socket:
            socket.send(json.dumps({
                "type": "generate", "id": request_id, "model": self.settings.model,
                "text_input": conduct.prompt, "max_tokens": conduct.max_tokens,
                "priority": conduct.priority, "ignore_eos": True}))
            while (message := json.loads(socket.recv()))["type"] != "done":
                if message["type"] == "error":
                    raise RequestFailed(str(message["error"]))
                conduct.chunk(message["num_output_tokens"])
                conduct.pause()

    def close(self) -> None:
        """Close the sockets."""
        self._pool.close()

    def _connect(self) -> websocket.WebSocket:
        key = f"?api_key={self.settings.api_key}" if self.settings.api_key else ""
        socket = websocket.create_connection(
            f"ws{self.host.removeprefix('http')}/ws{key}", timeout=ANSWER_TIMEOUT_S)
        greeting = json.loads(socket.recv())
        if greeting["type"] != "session":
            raise RequestFailed(str(greeting))
        return socket
