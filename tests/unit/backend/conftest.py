"""Front ends whose engine the test plays."""

from __future__ import annotations

import pytest
from scripted_front_end import LIMITS, TOKENIZER, FrontEnd, wait
from transformers import PreTrainedTokenizerFast

from tritonlm.engine import messages


@pytest.fixture
def start(tmp_path):
    """A front end with the given settings, whose engine is not ready yet."""
    PreTrainedTokenizerFast(tokenizer_object=TOKENIZER).save_pretrained(tmp_path)
    started = []

    def start(**settings):
        started.append(FrontEnd(tmp_path, **settings))
        return started[-1]

    yield start
    for front_end in started:
        front_end.stop()


@pytest.fixture
def front_end(start):
    """One with an engine that is ready."""
    front_end = start(drain_timeout_s=0)
    assert front_end.engine.heard() == [messages.Hello()]
    front_end.engine.say(LIMITS)
    wait(lambda: front_end.session._engines.num_ready)
    return front_end
