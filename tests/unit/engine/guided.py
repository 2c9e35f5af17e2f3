"""Requests that are held to grammars, and others, of an engine whose output can be read."""

from __future__ import annotations

import json
from dataclasses import dataclass

from drive import Outcomes, run_all, submit
from transformers import PreTrainedTokenizerFast

from tritonlm.engine.engine import Engine

MAX_TOKENS = 1000
PROMPT = [5, 6, 7]


@dataclass
class Guided:
    """An engine with what reads its output."""

    engine: Engine
    tokenizer: PreTrainedTokenizerFast

    def texts(self, requests, engine=None) -> dict[int, str]:
        """Of requests that all end by themselves."""
        outcomes = run_all(engine or self.engine, {0: requests})
        assert not outcomes.failures
        assert outcomes.reasons == {request.key: "stop" for request in requests}
        return self.read(outcomes)

    def read(self, outcomes: Outcomes) -> dict[int, str]:
        return {key: self.tokenizer.decode(ids, skip_special_tokens=True)
                for key, ids in outcomes.token_ids.items()}


def held(key, name, text, **options):
    defaults = {"temperature": 1.0, "seed": key, "max_tokens": MAX_TOKENS, "guide": (name, text)}
    return submit(key, PROMPT, **defaults | options)


def held_to_schema(key, schema, **options):
    return held(key, "guided_json", json.dumps(schema), **options)


def free(key, **options):
    return submit(key, [3 + key, 9], **{"temperature": 0.8, "seed": key, "max_tokens": 20,
                                        "ignore_eos": True} | options)
