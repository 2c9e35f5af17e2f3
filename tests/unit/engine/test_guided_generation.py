"""Random models that are held to grammars, against `jsonschema` and Python's own `re`."""

from __future__ import annotations

import json
import re

import jsonschema
import numpy as np
import pytest
from drive import Outcomes, run_all
from guided import free, held, held_to_schema
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_engine import FEW_BLOCKS_GIB, engine_of, launched_ahead

POINT = {
    "type": "object", "additionalProperties": False, "required": ["name", "at"],
    "properties": {"name": {"type": "string", "maxLength": 6},
                   "at": {"type": "array", "items": {"type": "integer", "minimum": -9,
                                                     "maximum": 99},
                          "minItems": 2, "maxItems": 3},
                   "kind": {"enum": ["näh", "fern", None, 3.5]}}}
TREE = {
    "$defs": {"leaf": {"anyOf": [{"type": "boolean"}, {"type": "null"},
                                 {"const": {"x": "\"\\"}}]}},
    "type": "array", "items": {"$ref": "#/$defs/leaf"}, "minItems": 1, "maxItems": 4}


@pytest.fixture(scope="module", params=["in turn", "ahead"])
def engine(request, guided):
    """An engine that knows each token before the next step, and one that does not."""
    return guided.engine if request.param == "in turn" else launched_ahead(guided.engine)


@pytest.mark.parametrize("schema", [POINT, TREE], ids=["point", "tree"])
def test_what_a_random_model_says_satisfies_the_schema(guided, engine, schema):
    texts = guided.texts([held_to_schema(seed, schema) for seed in range(40)], engine)
    for text in texts.values():
        jsonschema.validate(json.loads(text), schema)
    assert len(set(texts.values())) > 5, "the model is to choose what the schema leaves open"


@st.composite
def schemas(draw, depth=2):
    """Small schemas whose values are short."""
    low, high = sorted((draw(st.integers(-999, 999)), draw(st.integers(-999, 999))))
    simple = [{"type": "boolean"}, {"type": "null"},
              {"type": "integer", "minimum": low, "maximum": high},
              {"type": "string", "minLength": draw(st.integers(0, 3)), "maxLength": 5},
              {"enum": draw(st.lists(st.text(max_size=4) | st.integers() | st.none(), min_size=1,
                                     max_size=4, unique_by=repr))}]
    if not depth or draw(st.integers(0, 3)) == 0:
        return draw(st.sampled_from(simple))
    children = draw(st.lists(schemas(depth - 1), min_size=1, max_size=3))
    names = [f"{draw(st.text(max_size=3))}{i}" for i in range(len(children))]
    least = draw(st.integers(0, 2))
    return draw(st.sampled_from([
        {"anyOf": children},
        {"type": "array", "items": children[0], "minItems": least, "maxItems": least + 1},
        {"type": "object", "properties": dict(zip(names, children, strict=True)),
         "required": names[: least], "additionalProperties": False}]))


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture,
                                                 HealthCheck.too_slow])
@given(given_schemas=st.lists(schemas(), min_size=12, max_size=12))
def test_any_small_schema_is_satisfied(guided, given_schemas):
    requests = [held_to_schema(key, schema, seed=7)
                for key, schema in enumerate(given_schemas)]
    for key, text in guided.texts(requests).items():
        jsonschema.validate(json.loads(text), given_schemas[key])


@pytest.mark.parametrize(("name", "text", "pattern"), [
    ("guided_regex", r"[a-f]{3}(-\d{2}){1,3}", r"[a-f]{3}(-\d{2}){1,3}"),
    ("guided_choice", json.dumps(["東", "東京", '東"\\\n', "東🗼"]), r'東|東京|東"\\\n|東🗼'),
    ("guided_grammar", 'start: "<" /[xyz]{1,4}/ ">" ("!" | "?")', "<[xyz]{1,4}>[!?]"),
    ("guided_grammar", 'root ::= "<" [xyz] end\nend ::= "!" | "?"', "<[xyz][!?]"),
], ids=["regex", "choice", "lark", "gbnf"])
def test_other_grammars_hold_too(guided, engine, name, text, pattern):
    texts = guided.texts([held(seed, name, text) for seed in range(30)], engine).values()
    assert [said for said in texts if not re.fullmatch(pattern, said)] == []
    assert len(set(texts)) >= 3


def test_an_answer_may_end_exactly_where_its_grammar_is_complete(guided):
    """After `a` it may end or go on, after `ab` it may not, after `abc` it must."""
    texts = guided.texts([held(seed, "guided_regex", "a(bc)?") for seed in range(40)])
    assert set(texts.values()) == {"a", "abc"}


def test_an_answer_cut_by_its_length_says_so(guided):
    outcomes = run_all(guided.engine, {0: [held(0, "guided_regex", "x{50}", max_tokens=10)]})
    assert outcomes.reasons == {0: "length"}
    assert re.fullmatch("x{10,49}", guided.read(outcomes)[0])


def test_company_changes_neither_the_held_nor_the_free(guided, engine):
    alone = {key: run_all(guided.engine, {0: [request]}).token_ids[key]
             for key in range(8) for request in [
                 held_to_schema(key, POINT) if key % 2 else free(key)]}
    mixed = [held_to_schema(key, POINT) if key % 2 else free(key) for key in range(8)]
    outcomes = run_all(engine, {0: mixed[:5], 3: mixed[5:]})
    assert outcomes.token_ids == alone


def test_a_request_that_was_pre_empted_goes_on_in_its_grammar(guided, guided_checkpoint):
    crowd = engine_of(guided_checkpoint, kv_cache_gib=FEW_BLOCKS_GIB)
    requests = [held(key, "guided_regex", "(ab|cd|e){30,40}!", max_tokens=99) for key in range(12)]
    texts = guided.texts(requests, crowd)
    assert crowd.scheduler.stats(0.0).num_preemptions > 0
    assert texts == guided.texts(requests)
    assert all(re.fullmatch("(ab|cd|e){30,40}!", text) for text in texts.values())


def test_the_free_do_not_wait_for_the_held(guided):
    """Of steps that are launched ahead, the held take every second one."""
    engine = launched_ahead(guided.engine)
    run_all(engine, {0: [held(9, "guided_regex", "x{50}")]})
    engine.submit(0, held(0, "guided_regex", "x{50}"))
    engine.submit(0, free(1, max_tokens=30))
    outcomes, num_steps = Outcomes(), 0
    while 1 not in outcomes.reasons:
        outcomes.gather(engine.step())
        num_steps += 1
    assert num_steps == 30 + 1
    assert 10 < len(outcomes.token_ids[0]) < 20
    engine.cancel_all(0)


def test_other_options_choose_among_what_the_grammar_allows(guided):
    a, b = (guided.tokenizer.convert_tokens_to_ids(letter) for letter in "ab")
    banned = (tuple(guided.tokenizer.encode("z", add_special_tokens=False)),)
    requests = [
        held(0, "guided_regex", "[abz]{8}", logit_bias=((a, 100.0),)),
        held(1, "guided_regex", "[ab]{8}", logit_bias=((a, 30.0), (b, 30.0)),
             presence_penalty=2.0, frequency_penalty=2.0, temperature=0.0),
        held(2, "guided_regex", "[az]{8}", banned=banned, top_p=0.9, top_k=50),
        held(3, "guided_regex", "a{1,9}", min_tokens=8, logit_bias=((a, 50.0),)),
    ]
    texts = guided.texts(requests)
    assert texts[0] == "aaaaaaaa"
    assert {"a", "b"} == set(texts[1])
    assert texts[2] == "aaaaaaaa"
    assert len(texts[3]) >= 8


def test_where_other_options_leave_nothing_the_grammar_counts(guided):
    [z] = guided.tokenizer.encode("z", add_special_tokens=False)
    requests = [held(0, "guided_choice", '["z"]', banned=((z,),)),
                held(1, "guided_choice", '["z"]', min_tokens=9)]
    assert guided.texts(requests) == {0: "z", 1: "z"}


def test_a_stop_token_ends_an_answer_before_its_grammar_does(guided):
    [z] = guided.tokenizer.encode("z", add_special_tokens=False)
    request = held(0, "guided_choice", '["azb"]', stop_token_ids=(z,))
    assert guided.texts([request]) == {0: "az"}


def test_log_probabilities_are_those_of_the_model(guided):
    request = held(0, "guided_choice", '["zzz"]', num_logprobs=2)
    outcomes = run_all(guided.engine, {0: [request]})
    measured = outcomes.logprobs[0].values()
    assert len(measured) == len(outcomes.token_ids[0])
    assert any(ids[0] not in ids[1:] for ids, _ in measured), "the model wants something else"
    assert all(np.isfinite(values).all() for _, values in measured)
