"""Requests with options of all kinds get in a crowd, pre-empted at times, what each gets alone."""

from __future__ import annotations

import numpy as np
import pytest
from drive import run_all, submit
from small_engine import FEW_BLOCKS_GIB, engine_of, launched_ahead
from tests.checkpoints import VOCAB_SIZE

NUM_REQUESTS = 24
MAX_TOKENS = 40
CHOICES = {
    "temperature": [0.0, 0.3, 1.0, 2.0], "top_p": [1.0, 0.5, 0.9], "top_k": [0, 3, 10**6],
    "min_p": [0.0, 0.05], "typical_p": [1.0, 0.9], "repetition_penalty": [1.0, 0.5, 1.3],
    "presence_penalty": [0.0, -2.0, 0.7], "frequency_penalty": [0.0, -1.0, 0.4],
    "min_tokens": [0, 9], "ignore_eos": [False, True], "num_logprobs": [-1, 0, 5],
    "num_prompt_logprobs": [-1, -1, 2], "priority": [0, 1, 2, 3], "user": ["ann", "bob"],
    "logit_bias": [(), ((7, 3.0), (9, -100.0))], "banned": [(), ((5,), (6, 7), (8, 9, 10))],
    "stop_token_ids": [(), (11, 12, 10**6)],
    "guide": [None, None, None, ("guided_regex", "[ab]{3}(cd|e){2,9}")],
}


def requests():
    random = np.random.default_rng(5)
    shared = random.integers(3, VOCAB_SIZE, 90)
    for key in range(NUM_REQUESTS):
        own = random.integers(3, VOCAB_SIZE, random.integers(1, 4))
        prompt = [*shared[: random.integers(0, 90)], *own]
        options = {name: values[random.integers(len(values))] for name, values in CHOICES.items()}
        yield submit(key, prompt, MAX_TOKENS, seed=key, **options)


@pytest.mark.parametrize("is_ahead", [False, True])
def test_each_gets_in_a_crowd_what_it_gets_alone(guided, guided_checkpoint, is_ahead):
    crowd = engine_of(guided_checkpoint, kv_cache_gib=FEW_BLOCKS_GIB, max_prefill_chunk=17)
    crowd = launched_ahead(crowd) if is_ahead else crowd
    arrivals = {}
    for request in requests():
        arrivals.setdefault(2 * (request.key % 7), []).append(request)
    together = run_all(crowd, arrivals)
    assert crowd.stats().num_preemptions > 0
    for request in requests():
        alone = run_all(guided.engine, {0: [request]})
        assert together.token_ids[request.key] == alone.token_ids[request.key]
        assert together.reasons[request.key] == alone.reasons[request.key]
        measured = together.logprobs[request.key]
        assert measured.keys() == alone.logprobs[request.key].keys()
        for position, (ids, values) in alone.logprobs[request.key].items():
            assert measured[position][0][0] == ids[0]
            assert measured[position][1][: len(values)] == pytest.approx(values, abs=1e-4)
