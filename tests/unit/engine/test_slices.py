"""Tokens are chosen and measured a bounded part of the rows at a time, with the same results."""

from __future__ import annotations

import pytest
from drive import run_all, submit
from hypothesis import given
from hypothesis import strategies as st
from small_engine import engine_of, prompts
from tests.checkpoints import VOCAB_SIZE, save_random_model

from tritonlm.engine import choosing, logprobs, slices

ROWS_AT_A_TIME = 3


@given(st.integers(0, 300), st.integers(1, 2**30))
def test_parts_have_each_row_once_and_keep_within_the_bound(num_rows, bytes_per_row):
    parts = [range(num_rows)[part] for part in slices.slices(num_rows, bytes_per_row)]
    assert [row for part in parts for row in part] == list(range(num_rows))
    for part in parts:
        assert len(part) == 1 or len(part) * bytes_per_row <= slices.SLICE_BYTES


def mixed_requests():
    for key, prompt in enumerate(prompts(13, seed=3)):
        yield submit(key, prompt, 12, seed=key, temperature=key % 3 / 2, typical_p=1 - key % 2 / 2,
                     num_logprobs=[-1, 0, 3, 20][key % 4], num_prompt_logprobs=[-1, 5, 0][key % 3],
                     repetition_penalty=1 + key % 2, frequency_penalty=key % 4 / 4,
                     banned=((5,), (6, 7))[: key % 3], logit_bias=((9, 3.0),), min_tokens=key)


def test_a_crowd_gets_the_same_a_few_rows_at_a_time(tmp_path, monkeypatch):
    engine = engine_of(save_random_model(tmp_path), prefix_cache=False)
    whole = run_all(engine, {0: list(mixed_requests())})
    num_rows = []
    for module, name in ((choosing, "_draw"), (logprobs, "_measure_slice")):
        real = getattr(module, name)

        def noted(logits, *others, real=real):
            num_rows.append(len(logits))
            return real(logits, *others)

        monkeypatch.setattr(module, name, noted)
        monkeypatch.setattr(module, "BYTES_PER_LOGIT", 1)
    monkeypatch.setattr(slices, "SLICE_BYTES", ROWS_AT_A_TIME * VOCAB_SIZE)
    parts = run_all(engine, {0: list(mixed_requests())})
    assert max(num_rows) == ROWS_AT_A_TIME
    assert parts.token_ids == whole.token_ids
    for key, measured in whole.logprobs.items():
        assert parts.logprobs[key].keys() == measured.keys()
        for position, (ids, values) in measured.items():
            assert parts.logprobs[key][position][0] == ids
            assert parts.logprobs[key][position][1] == pytest.approx(values, abs=1e-5)
