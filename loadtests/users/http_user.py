"""What users of HTTP have in common."""

from __future__ import annotations

from typing import Any

import requests

from loadtests.users.language_user import ANSWER_TIMEOUT_S, LanguageUser, RequestFailed

OK = 200


class HttpUser(LanguageUser):
    """Posts JSON over connections that are kept."""

    abstract = True

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self._session = requests.Session()
        if self.settings.api_key:
            self._session.headers["authorization"] = f"Bearer {self.settings.api_key}"

    def post(self, url: str, body: dict[str, Any], is_stream: bool = False) -> requests.Response:
        """The answer to `body`, a context; raises `RequestFailed` for a status other than 200."""
        response = self._session.post(url, json=body, stream=is_stream, timeout=ANSWER_TIMEOUT_S)
        if response.status_code != OK:
            with response:
                raise RequestFailed(f"status {response.status_code}: {response.text}")
        return response

    def close(self) -> None:
        """Close the connections."""
        self._session.close()
