"""With --log-format json, all that `tritonlm serve` says is objects of JSON."""

from __future__ import annotations

import json

import pytest

from tritonlm.logs import json_line
from tritonlm.server import log
from tritonlm.server.command import _report_json


@pytest.mark.parametrize(("line", "process", "message"), [
    ("tritonlm: model tokenize is loaded", "serve", "model tokenize is loaded"),
    ('I1122 02:40:44.1 8822 server.cc:604] "it runs"', "tritonserver",
     'I1122 02:40:44.1 8822 server.cc:604] "it runs"'),
    (json_line("engine 0", "loaded"), "engine 0", "loaded"),
], ids=["ours", "tritonserver's", "an engine's"])
def test_a_line_tells_whose_it_is(capsys, line, process, message):
    _report_json(line)
    told = json.loads(capsys.readouterr().err)
    assert (told["process"], told["message"], told["level"]) == (process, message, "info")


def test_lines_of_json_are_progress():
    line = json_line("engine 0", "loaded")
    assert log.progress(line) == line
