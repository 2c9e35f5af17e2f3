"""With --log-format json, all that `tritonlm serve` says is objects of JSON."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from tritonlm.cli import app
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


@pytest.mark.parametrize(("command", "process"), [
    (["serve", "--front-ends", "0"], "serve"), (["gateway", "--workers", "0"], "gateway"),
    (["repo", "serve", "--repository", "/no/such"], "serve")])
def test_why_it_cannot_start_is_told_in_the_same_form(command, process):
    result = CliRunner().invoke(app, [*command, "--log-format", "json"])
    told = json.loads(result.output)
    assert (result.exit_code, told["process"], told["level"]) == (1, process, "error")
    plain = CliRunner().invoke(app, command)
    assert (plain.exit_code, plain.output) == (1, f"tritonlm: {told['message']}\n")
