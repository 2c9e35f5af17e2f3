"""Grammars that are refused, and requests that end while theirs are compiled."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest
from drive import Outcomes, run_all
from guided import free, held
from small_engine import engine_of, launched_ahead

from tritonlm.engine.grammars import NUM_COMPILERS, NUM_KEPT, Grammars

TOO_DEEP = json.dumps({
    "$defs": {f"n{i}": {"type": "array", "items": {"$ref": f"#/$defs/n{i + 1}"}}
              for i in range(2500)} | {"n2500": {}}, "$ref": "#/$defs/n0"})
TOO_SLOW = json.dumps({"allOf": [{"type": "string", "pattern": f"a{i}"} for i in range(2000)]})
TOO_WIDE = json.dumps({"type": "object",
                       "properties": {f"p{i}": {"type": "string"} for i in range(2000)}})


@pytest.mark.parametrize(("guide", "reason"), [
    (("guided_json", '{"type": "foo"}'), "Invalid type: foo"),
    (("guided_json", '{"type": "array", "uniqueItems": true}'), "uniqueItems"),
    (("guided_json", '{"$ref": "#/nowhere"}'), "nowhere"),
    (("guided_json", '{"enum": []}'), "Unsatisfiable"),
    (("guided_json", TOO_DEEP), "nests too deeply"),
    (("guided_regex", "a("), "unclosed group"),
    (("guided_regex", "(?=a)b"), "look-around"),
    (("guided_grammar", "start: a"), "unknown name"),
    (("guided_grammar", "start: <|nothing|>"), "unknown special token"),
], ids=lambda value: "-".join(value)[:40] if isinstance(value, tuple) else "")
def test_what_is_no_grammar_is_refused_by_name(guided, guide, reason):
    engine = guided.engine
    [news] = failures_of(engine, [held(0, *guide)])
    assert news.failure_code == "INVALID_ARG"
    assert news.failure.startswith(f"{guide[0]}: '{guide[1][:10]}")
    assert reason in news.failure
    assert not engine.has_work
    assert guided.texts([held(1, "guided_choice", '["b"]')]) == {1: "b"}


def failures_of(engine, requests):
    """The news of failures while `requests` run, and nothing else than these."""
    failures, arrivals = [], {0: requests}
    real_step = engine.step

    def step():
        news = real_step()
        failures.extend(each for each in news if each.failure)
        return news

    engine.step = step
    try:
        run_all(engine, arrivals)
    finally:
        del engine.step
    return failures


def test_a_grammar_that_takes_too_long_is_refused_and_stalls_nobody(guided):
    outcomes = Outcomes()
    slow, others = held(0, "guided_json", TOO_SLOW), [free(1), held(2, "guided_choice", '["c"]')]
    for request in (slow, *others):
        guided.engine.submit(0, request)
    while guided.engine.has_work:
        outcomes.gather(guided.engine.step())
        if 0 not in outcomes.failures:
            early = set(outcomes.reasons)
    assert early == {1, 2}, "others are done before the slow one is refused"
    assert "takes more than 2 s to compile" in outcomes.failures[0]


def test_a_grammar_that_grows_too_large_ends_its_request_alone(guided):
    outcomes = run_all(guided.engine, {0: [held(0, "guided_json", TOO_WIDE), free(1)]})
    assert outcomes.failures.keys() == {0}
    assert outcomes.failures[0].startswith("guided_json: ")
    assert len(outcomes.token_ids[1]) == 20


@pytest.mark.parametrize("end", ["cancelled", "deadline"])
def test_a_request_can_end_while_its_grammar_is_compiled(guided, end):
    engine = guided.engine
    request = held(0, "guided_json", json.dumps({"enum": [f"{end}{i}" for i in range(5000)]}),
                   deadline_s=0.0 if end == "deadline" else np.inf)
    engine.submit(0, request)
    outcomes = Outcomes()
    if end == "cancelled":
        outcomes.gather([engine.cancel_by_id("request 0")])
    outcomes.gather(engine.step())
    assert outcomes.reasons == {0: end}
    assert not engine.has_work


def test_a_grammar_is_compiled_once_while_it_is_used():
    grammars = Grammars(lambda: pytest.fail("not needed"))
    texts = [f"a{{{size}" for size in range(NUM_KEPT)]
    first = [grammars.compile(("guided_regex", text)) for text in texts]
    assert grammars.compile(("guided_regex", texts[0])) is first[0]
    grammars.compile(("guided_regex", "another("))
    assert grammars.compile(("guided_regex", texts[0])) is first[0]
    assert grammars.compile(("guided_regex", texts[1])) is not first[1]


def test_grammars_of_requests_that_are_over_keep_nobody_waiting(guided, monkeypatch):
    grammars = guided.engine.scheduler._grammars
    is_released, compiled, compile_ = threading.Event(), [], grammars._compile

    def slow_compile(guide):
        is_released.wait()
        compiled.append(guide[1])
        return compile_(guide)

    monkeypatch.setattr(grammars, "_compile", slow_compile)
    texts = [f"over {number}" for number in range(NUM_COMPILERS + 3)]
    requests = [held(key, "guided_regex", text) for key, text in enumerate([*texts, texts[-1]])]
    for request in requests:
        guided.engine.submit(0, request)
    for request in requests[:-1]:
        guided.engine.cancel(0, request.key)
    is_released.set()
    outcomes = run_all(guided.engine, {})
    assert guided.read(outcomes) == {requests[-1].key: texts[-1]}
    assert not {*compiled} & {*texts[NUM_COMPILERS:-1]}
    assert guided.texts([held(0, "guided_regex", texts[-2])]) == {0: texts[-2]}


def test_a_model_without_an_end_cannot_be_held(guided_checkpoint):
    engine = engine_of(guided_checkpoint)
    engine.scheduler._grammars = Grammars(lambda: (_ for _ in ()).throw(ValueError("no end")))
    [news] = failures_of(engine, [held(0, "guided_choice", '["a"]')])
    assert news.failure == 'guided_choice: \'["a"]\' is not allowed; no end'


def test_an_engine_without_grammars_refuses_them(guided, monkeypatch):
    engine = launched_ahead(guided.engine)
    monkeypatch.setattr(engine.scheduler, "_grammars", None)
    with pytest.raises(ValueError, match="no answers to grammars"):
        engine.submit(0, held(0, "guided_choice", '["a"]'))
    assert not engine.has_work
