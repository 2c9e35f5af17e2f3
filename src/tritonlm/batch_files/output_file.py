"""The file of answers: what is in it is there for good, and is not asked for again."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from tritonlm.errors import InvalidArgument, Unavailable

START = b'{"id":"'
"""Of every line."""


class AnswerLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An answer; `error` is for requests that got none over HTTP."""

    id: str
    custom_id: str
    response: dict[str, Any] | None
    error: dict[str, Any] | None

    @property
    def is_good(self) -> bool:
        """Whether the request was answered with what it asked for."""
        return self.response is not None and self.response.get("status_code") == 200


class OutputFile:
    """Open for one process at a time; a last line that a crash has torn is cut off."""

    def __init__(self, path: Path, custom_ids: Collection[str]) -> None:
        """`custom_ids` are those that answers may have; raises `ServingError`."""
        self._path = path
        self._custom_ids = custom_ids
        self.done: set[str] = set()
        self.num_failed = 0
        """Answers that are not good."""
        try:
            self._file = path.open("a+b", buffering=0)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Unavailable(f"{path}: another process writes to it") from None
        except OSError as error:
            raise InvalidArgument("output", str(path), error.strerror or str(error)) from None
        if not path.is_file():
            raise InvalidArgument("output", str(path), "what is done is read from it, if the same "
                                                       "command is to go on: give a file's name")
        self._read()
        _sync_folder(path.parent)

    def __enter__(self) -> OutputFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._file.close()

    def append(self, answers: Sequence[AnswerLine]) -> None:
        """Return when the `answers` are on disk; raises `Unavailable`, and then none of them is."""
        data = memoryview(b"".join(msgspec.json.encode(answer) + b"\n" for answer in answers))
        end = self._file.seek(0, os.SEEK_END)
        try:
            while data:
                data = data[self._file.write(data) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(end)  # others may write after this
            raise Unavailable(f"{self._path}: {error.strerror}; what is done is kept: the same "
                              "command goes on") from None
        for answer in answers:
            self._count(answer)

    def _read(self) -> None:
        """Find what is done, and where to go on."""
        end = 0
        with self._path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                if not raw.endswith(b"\n"):
                    if raw[: len(START)] != START[: len(raw)]:
                        raise self._foreign(number, "it is no answer")
                    break
                self._count(self._decoded(number, raw))
                end += len(raw)
        self._file.truncate(end)

    def _count(self, answer: AnswerLine) -> None:
        self.done.add(answer.custom_id)
        self.num_failed += not answer.is_good

    def _decoded(self, number: int, raw: bytes) -> AnswerLine:
        try:
            answer = msgspec.json.decode(raw, type=AnswerLine)
        except msgspec.DecodeError as error:
            raise self._foreign(number, f"it is no answer: {error}") from None
        custom_id = answer.custom_id
        if custom_id not in self._custom_ids:
            raise self._foreign(number, f"no request has the custom_id {custom_id!r}")
        if custom_id in self.done:
            raise self._foreign(number, f"custom_id {custom_id!r} was answered before")
        return answer

    def _foreign(self, number: int, what: str) -> InvalidArgument:
        return InvalidArgument("output", str(self._path), f"line {number}: {what}; give another "
                               "name, or the file of the same requests to go on with it")


def _sync_folder(folder: Path) -> None:
    """A new file's name is kept with its folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
