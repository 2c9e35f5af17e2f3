"""What is told of a request that has ended."""

from __future__ import annotations

import logging
import math
import time
from types import SimpleNamespace

import pytest

from tritonlm.backend.epilogue import Epilogue
from tritonlm.backend.time_budget import TimeBudget


class Recorder:
    """Stands for metrics and tracer: keeps what is told."""

    def __init__(self):
        self.counted, self.recorded = [], []

    def count(self, *labels):
        self.counted.append(labels)

    def observe(self, name, value):
        assert name == "tritonlm_request_seconds"
        assert value >= 0

    def record(self, whole, parent, stages, attributes, error):
        self.recorded.append((whole, parent, {stage.name: stage for stage in stages}, attributes,
                              error))


@pytest.fixture
def recorder():
    return Recorder()


def answer(**times):
    return SimpleNamespace(request_id="r1", traceparent="the parent", budget=TimeBudget(**times))


GENERATION = SimpleNamespace(num_prompt_tokens=7, num_output_tokens=5)


def test_a_finished_request_is_counted_and_not_logged(recorder, caplog):
    with caplog.at_level(logging.INFO):
        Epilogue("generate", recorder, None, False).tell(answer(), "finished", "stop", GENERATION)
    assert recorder.counted == [("tritonlm_requests_total", "finished", "stop")]
    assert not caplog.records


def test_a_failed_one_is_logged_with_its_id(recorder, caplog):
    Epilogue("generate", recorder, None, False).tell(
        answer(), "failed", "unavailable", GENERATION, "the engine was lost")
    [record] = caplog.records
    assert (record.message, record.levelname) == ("the engine was lost", "WARNING")
    assert record.fields["request_id"] == "r1"
    assert (record.fields["input_tokens"], record.fields["output_tokens"]) == (7, 5)


def test_all_are_logged_if_that_is_asked_for(recorder, caplog):
    with caplog.at_level(logging.INFO):
        Epilogue("generate", recorder, None, True).tell(answer(), "refused", "invalid_arg")
    [record] = caplog.records
    assert (record.fields["outcome"], record.fields["output_tokens"]) == ("refused", None)


def test_a_span_has_the_stages_that_took_place(recorder):
    now_s = time.monotonic()
    times = {"received_s": now_s - 4, "admitted_s": now_s - 3, "first_token_s": now_s - 2,
             "last_token_s": now_s - 1, "first_send_s": now_s - 1.5}
    epilogue = Epilogue("generate", recorder, recorder, False)
    epilogue.tell(answer(**times), "finished", "length", GENERATION)
    [(whole, parent, stages, attributes, error)] = recorder.recorded
    assert (whole.name, parent, error) == ("generate", "the parent", "")
    assert whole.begin_s == times["received_s"]
    assert {name: (stage.begin_s, stage.end_s) for name, stage in stages.items()} == {
        "queue": (times["received_s"], times["admitted_s"]),
        "prefill": (times["admitted_s"], times["first_token_s"]),
        "decode": (times["first_token_s"], times["last_token_s"]),
        "send": (times["first_send_s"], whole.end_s)}
    assert attributes["gen_ai.usage.output_tokens"] == 5
    assert attributes["gen_ai.response.id"] == "r1"


def test_what_was_not_over_ends_with_the_request(recorder):
    epilogue = Epilogue("generate", recorder, recorder, False)
    epilogue.tell(answer(), "failed", "unavailable", GENERATION, "it was lost")
    [(whole, _, stages, _, error)] = recorder.recorded
    assert set(stages) == {"queue"}
    assert stages["queue"].end_s == whole.end_s
    assert not math.isnan(whole.end_s)
    assert error == "it was lost"


def test_what_was_refused_has_no_stages(recorder):
    Epilogue("generate", recorder, recorder, False).tell(
        answer(), "refused", "invalid_arg", None, "it is not allowed")
    [(_, _, stages, _, error)] = recorder.recorded
    assert (stages, error) == ({}, "it is not allowed")
