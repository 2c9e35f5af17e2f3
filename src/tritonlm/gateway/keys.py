"""API keys: a JSON file that has their hashes, and what each may do.

{"keys": [{"name": "alice", "sha256": HEX, "requests_per_minute": 60, "max_concurrent": 8,
           "priority": "normal"}]}
"""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path
from typing import Annotated, Any

import msgspec

from tritonlm.errors import InvalidArgument, from_code
from tritonlm.gateway.failures import Unauthorized
from tritonlm.options import PRIORITIES

KEY_PREFIX = "tlm-"
AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]


class ApiKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who calls, and what they may do; None is without limit."""

    name: str
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")] = ""
    requests_per_minute: AtLeastOne | None = None
    max_concurrent: AtLeastOne | None = None
    priority: str = "normal"
    """Of requests that do not say; none of a higher one is taken."""

    def __post_init__(self) -> None:
        """Raise `ValueError` for a priority that does not exist."""
        if self.priority not in PRIORITIES:
            raise ValueError(f"priority {self.priority!r} is none of {', '.join(PRIORITIES)}")

    def applied_to(self, options: dict[str, Any]) -> dict[str, Any]:
        """`options` with this key's priority and user; raises `InvalidArgument`."""
        priority = options.get("priority", self.priority)
        if priority in PRIORITIES and PRIORITIES.index(priority) < PRIORITIES.index(self.priority):
            raise InvalidArgument("priority", priority,
                                  f"the key's highest is {self.priority}")
        user = options.get("user", "")
        if not isinstance(user, str):
            raise InvalidArgument("user", user, "it must be a text")
        names = (self.name, user) if user else (self.name,)
        return options | {"priority": priority, "user": "/".join(names)}


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: list[ApiKey]


class KeyRing:
    """The keys that are known."""

    def __init__(self, keys: list[ApiKey]) -> None:
        self.keys = keys
        self._by_hash = {key.sha256: key for key in keys}

    @classmethod
    def load(cls, path: Path) -> KeyRing:
        """The keys in a file; raises `InvalidArgument`."""
        try:
            keys = msgspec.json.decode(path.read_bytes(), type=_File).keys
        except (OSError, msgspec.DecodeError) as error:
            raise from_code("INVALID_ARG", f"keys_file: {path} cannot be used: {error}") from None
        if len({key.name for key in keys}) < len(keys) or not all(key.sha256 for key in keys):
            raise InvalidArgument("keys_file", str(path), "each key needs a name of its own, and "
                                  "a sha256")
        return cls(keys)

    def find(self, presented: str) -> ApiKey:
        """The key that was presented; raises `Unauthorized`."""
        key = self._by_hash.get(hashed(presented))
        if key is None:
            raise Unauthorized("the API key is not known; send one as `Authorization: Bearer KEY`"
                               if presented else
                               "an API key is needed; send it as `Authorization: Bearer KEY`")
        return key


def hashed(key: str) -> str:
    """What a file has of a key: keys are random and long, so that a plain hash will do."""
    return hashlib.sha256(key.encode()).hexdigest()


def new_key() -> str:
    """A key that nobody has."""
    return KEY_PREFIX + secrets.token_urlsafe(32)
