"""The errors a user can cause or meet, each with the code that Triton and HTTP know it by.

ServingError
├── InvalidArgument   a field of the request, or a setting, has a value that is not allowed
├── NotFound          no request, model or file of that name
├── Unavailable       not now: full, starting, or the engine was lost; a retry may work
├── EngineFailure     a bug or a device fault; the request is over, the server goes on
└── StartFailure      a server cannot start here; the message says what to do
    ├── ServerCrashed a server crashed before it was ready
    └── ServerLost    a server that was ready is of no more use
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

MAX_SHOWN_CHARS = 80


class ServingError(Exception):
    """Base of all errors that are answered to a client; `code` is Triton's name of the class."""

    code: ClassVar[str] = "INTERNAL"

    @property
    def message(self) -> str:
        """The text for the client."""
        return str(self)

    @property
    def coded_message(self) -> str:
        """`code: message`, as servers answer: Triton's streams carry a text but no status code."""
        return f"{self.code}: {self.message}"


class InvalidArgument(ServingError):
    """A field whose value is not allowed; the message names field, value and what is allowed."""

    code = "INVALID_ARG"

    def __init__(self, field: str, value: Any, allowed: str) -> None:
        super().__init__(f"{field}: {shorten(value)} is not allowed; {allowed}")

    @property
    def field(self) -> str:
        """The name of the refused field; empty where the message is Triton's own."""
        name, _, told = self.message.partition(": ")
        return name if " is not allowed; " in told else ""

    def __reduce__(self) -> tuple[Any, ...]:
        """So that it comes back whole from another process."""
        return from_code, (self.code, self.message)


class NotFound(ServingError):
    """Something named in the request does not exist."""

    code = "NOT_FOUND"


class Unavailable(ServingError):
    """The request cannot be served now; the message says when or whether to retry."""

    code = "UNAVAILABLE"

    @property
    def retry_after_s(self) -> int | None:
        """In how many seconds there may be room, where the message tells."""
        hint = re.search(r"retry in (\d+) s$", self.message)
        return int(hint[1]) if hint else None


class EngineFailure(ServingError):
    """The engine failed this request: a bug or a device fault."""

    code = "INTERNAL"


def from_code(code: str, message: str) -> ServingError:
    """The error of `code` with a message that is made already: how a client rebuilds an answer."""
    classes = (InvalidArgument, NotFound, Unavailable, EngineFailure)
    error_class = {known.code: known for known in classes}.get(code, ServingError)
    return error_class.__new__(error_class, message)


class StartFailure(ServingError):
    """A server cannot be started, or did not come up; the message is one line."""

    code = "UNAVAILABLE"


class ServerCrashed(StartFailure):
    """tritonserver was ended by a fault of its own before it was ready; another start may do."""


class ServerLost(StartFailure):
    """A server that was ready has ended, or cannot answer any more: start it again."""


def shorten(value: Any) -> str:
    """The repr of `value`, cut so that a megabyte of prompt does not come back in the error."""
    try:
        text = repr(value[: MAX_SHOWN_CHARS + 1] if isinstance(value, str | bytes) else value)
    except RecursionError:  # JSON is read a little deeper than it is written
        text = f"a deep {type(value).__name__}"
    return text if len(text) <= MAX_SHOWN_CHARS else text[: MAX_SHOWN_CHARS - 3] + "..."


def first_line(error: BaseException) -> str:
    """What an exception says, without what follows its first line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
