"""Logs of JSON: which lines are about a request."""

from __future__ import annotations

import json
import re

from tests.drills.waiting import found

from tritonlm.logs import JSON_START


def lines_about(path, request_id):
    lines = [json.loads(line) for line in path.read_text().splitlines()
             if line.startswith(JSON_START)]
    return [line for line in lines if line.get("request_id") == request_id]


def logged_by(server, request_id, num_processes):
    """The models, or engines, that have logged a request, and of how many tokens it was."""
    lines = found(lambda: lines_about(server.log_path, request_id),
                  lambda lines: len({line["process"] for line in lines}) >= num_processes)
    assert all(line["input_tokens"] > 0 for line in lines)
    return {re.sub(r"_\d_\d$", "", line["process"]) for line in lines}
