"""Lines of log on stderr: for people, or JSON objects with the same keys in every process."""

from __future__ import annotations

import json
import logging
import sys
import time
from types import TracebackType
from typing import Any

FORMS = ("text", "json")
PREFIX = "tritonlm: "
"""Lines for people begin with it."""
OURS = "tritonlm"
JSON_START = '{"time": '
"""Lines of JSON begin with it."""


def fields(**told: Any) -> dict[str, Any]:
    """What a line tells beside its message, as `extra` of a logger's methods."""
    return {"fields": told}


def configure(process: str, form: str, logger: str = "") -> None:
    """Have what `logger` logs written, in one of `FORMS`; `process` says by whom.

    Without a name that is all that we log, warnings of our libraries, and what nobody caught.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.set_name(OURS)
    handler.setFormatter(_Json(process) if form == "json" else _Text())
    log = logging.getLogger(logger)
    log.handlers[:] = [*(each for each in log.handlers if each.get_name() != OURS), handler]
    logging.getLogger(logger or OURS).setLevel(logging.INFO)
    if not logger:
        sys.excepthook = _tell_uncaught


def json_line(process: str, message: str, level: str = "info", **told: Any) -> str:
    """A line of JSON, in ASCII: where no locale is set, as in images, stubs can write no more."""
    now_s = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_s)) + f".{int(now_s % 1 * 1e3):03}Z"
    return json.dumps({"time": stamp, "level": level, "process": process, "message": message,
                       **told}, default=str)


def _tell_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """What ends a process is a line of its log as everything else; Ctrl-C is no fault."""
    if issubclass(kind, Exception):
        logging.getLogger(OURS).critical("ended by an error: %s: %s", kind.__name__, error,
                                         exc_info=(kind, error, trace))
    else:
        sys.__excepthook__(kind, error, trace)


class _Json(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        told = dict(getattr(record, "fields", {}))
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json_line(self._process, record.getMessage(), record.levelname.lower(), **told)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        source = "" if record.name.startswith(OURS) else f"{record.name}: "
        text = source + super().format(record)
        return PREFIX + text.replace("\n", f"\n{PREFIX}")

    def formatMessage(self, record: logging.LogRecord) -> str:
        told = getattr(record, "fields", {})
        return super().formatMessage(record) + "".join(
            f" {name}={value}" for name, value in told.items() if value is not None)
