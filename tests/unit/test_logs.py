"""Lines of log, for people and for machines."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from datetime import datetime, timezone

import pytest

from tritonlm import logs

LOG = logging.getLogger("tritonlm_test.part")


@pytest.fixture
def told(capsys):
    """What is on stderr after a log in a form is written to."""
    def tell(form, write):
        logs.configure("engine 0", form, "tritonlm_test")
        write()
        logging.getLogger("tritonlm_test").handlers.clear()
        return capsys.readouterr().err
    return tell


def test_a_line_for_people_has_what_is_known(told):
    text = told("text", lambda: LOG.warning("it is lost", extra=logs.fields(
        request_id="a1", model=None, tokens=3)))
    assert text == "tritonlm: it is lost request_id=a1 tokens=3\n"


def test_a_line_of_json_has_the_same_keys_everywhere(told):
    line = told("json", lambda: LOG.info("it\nis \u00fc", extra=logs.fields(request_id="a1")))
    assert line.count("\n") == 1
    assert line.startswith(logs.JSON_START)
    object_ = json.loads(line)
    when = datetime.fromisoformat(object_.pop("time").replace("Z", "+00:00"))
    assert abs((datetime.now(timezone.utc) - when).total_seconds()) < 60
    assert object_ == {"level": "info", "process": "engine 0", "message": "it\nis \u00fc",
                       "request_id": "a1"}


def test_an_exception_is_part_of_its_line(told):
    def fail():
        try:
            raise KeyError("secret")
        except KeyError:
            LOG.exception("a bug")

    line = told("json", fail)
    assert "KeyError: 'secret'" in json.loads(line)["exception"]


UNCAUGHT = r"""
import logging, sys
from tritonlm import logs
logs.configure("engine 0", sys.argv[1])
logging.getLogger("opentelemetry").warning("the collector\nis silent")
logging.getLogger("opentelemetry").info("a detail")
logging.getLogger("tritonlm.part").info("gr\u00fcn", extra=logs.fields(request_id="\u00fc"))
raise KeyError("missing")
"""


@pytest.fixture(params=["C", "C.UTF-8"])
def lines_of(request):
    """The log of a process that ends by an error, as an image's variables have it or not."""
    def run(form):
        environ = {"LC_ALL": request.param, "PYTHONIOENCODING": ":backslashreplace",
                   "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
        done = subprocess.run([sys.executable, "-c", UNCAUGHT, form], capture_output=True,
                              check=False, env=environ)
        assert done.returncode == 1
        return done.stderr.decode().splitlines()
    return run


def test_libraries_and_what_ends_a_process_are_told_in_json_too(lines_of):
    told = [json.loads(line) for line in lines_of("json")]
    assert [(each["level"], each["message"]) for each in told] == [
        ("warning", "the collector\nis silent"), ("info", "gr\u00fcn"),
        ("critical", "ended by an error: KeyError: 'missing'")]
    assert told[1]["request_id"] == "\u00fc"
    assert told[2]["exception"].endswith("KeyError: 'missing'")


def test_each_line_for_people_says_that_it_is_ours(lines_of):
    """Who shows a server's log by the beginnings of lines shows why an engine has ended."""
    lines = lines_of("text")
    assert all(line.startswith(logs.PREFIX) for line in lines)
    assert lines[0] == "tritonlm: opentelemetry: the collector"
    assert lines[-1] == "tritonlm: KeyError: 'missing'"
