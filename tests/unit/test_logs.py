"""Lines of log, for people and for machines."""

from __future__ import annotations

import json
import logging
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
