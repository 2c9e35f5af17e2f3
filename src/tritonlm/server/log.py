"""Reading the server's log as it grows: progress for people, and the reason of a failure."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tritonlm.logs import JSON_START, PREFIX

LOADED = re.compile(r"\"successfully loaded '([^']+)'\"")
FAILED_LOAD = re.compile(r"\"failed to load '([^']+)' version \d+: [A-Za-z ]+: (.*)\"$")
REFUSED = re.compile(r"^E\d.* model_repository_manager\.cc:\d+\] \"(.*)\"$|"
                     r"Failed to preinitialize Python stub: (.*)|^error: (.*)")
TRACEBACK_START = r"\n\nAt:"
"""How Triton's log has the line breaks before the place of an exception in the model."""


class Log:
    """A file that servers append to, read a piece at a time from where it ended before."""

    def __init__(self, path: Path, max_bytes: int | None = None) -> None:
        """A file of more than `max_bytes` is emptied once it is read; raises `OSError`."""
        path.touch()
        self.path = path
        self._max_bytes = max_bytes
        self._file = path.open("rb", buffering=0)  # a buffer would know what was there before
        self._file.seek(0, os.SEEK_END)
        self._partial = b""
        self.failure: str | None = None
        """The first reason found in the lines read so far of why the server cannot be used."""

    def new_lines(self) -> list[str]:
        """The whole lines written since the last call."""
        *whole, self._partial = (self._partial + self._read()).split(b"\n")
        lines = [line.decode(errors="replace") for line in whole]
        for line in lines:
            self.failure = self.failure or failure(line)
        return lines

    def _read(self) -> bytes:
        """What has come; from the beginning if somebody has emptied the file, as logrotate does."""
        if os.fstat(self._file.fileno()).st_size < self._file.tell():
            self._file.seek(0)
        text = self._file.read()
        if self._max_bytes is not None and self._file.tell() > self._max_bytes:
            os.truncate(self.path, 0)  # a line that comes just now is lost
            self._file.seek(0)
        return text

    def close(self) -> None:
        """Close the file; it may be read no more."""
        self._file.close()


def progress(line: str) -> str | None:
    """The line to show to somebody who waits for the server, if `line` is of interest."""
    if line.startswith((PREFIX, JSON_START)):
        return line
    loaded = LOADED.search(line)
    return f"{PREFIX}model {loaded[1]} is loaded" if loaded else None


def failure(line: str) -> str | None:
    """The reason that `line` gives for a server that will not come up, if it does."""
    failed = FAILED_LOAD.search(line)
    if failed:
        reason = failed[2].partition(TRACEBACK_START)[0].replace(r"\n", " ")
        return f"model {failed[1]} failed to load: {reason.removeprefix('TritonModelException: ')}"
    refused = REFUSED.search(line)
    return next(filter(None, refused.groups())) if refused else None
