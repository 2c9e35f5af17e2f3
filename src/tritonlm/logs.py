"""Lines of log on stderr: for people, or JSON objects with the same keys in every process."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

FORMS = ("text", "json")
PREFIX = "tritonlm: "
"""Lines for people begin with it."""
JSON_START = '{"time": '
"""Lines of JSON begin with it."""


def fields(**told: Any) -> dict[str, Any]:
    """What a line tells beside its message, as `extra` of a logger's methods."""
    return {"fields": told}


def configure(process: str, form: str, logger: str = "tritonlm") -> None:
    """Have what `logger` logs written, in one of `FORMS`; `process` says by whom."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json(process) if form == "json" else _Text())
    log = logging.getLogger(logger)
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO)


def json_line(process: str, message: str, level: str = "info", **told: Any) -> str:
    """A line of JSON."""
    now_s = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_s)) + f".{int(now_s % 1 * 1e3):03}Z"
    return json.dumps({"time": stamp, "level": level, "process": process, "message": message,
                       **told}, ensure_ascii=False, default=str)


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
    def __init__(self) -> None:
        super().__init__(PREFIX + "%(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        told = getattr(record, "fields", {})
        return super().formatMessage(record) + "".join(
            f" {name}={value}" for name, value in told.items() if value is not None)
