import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritonlm.encoders.batches import cut
from tritonlm.encoders.rows import Row, pad
from tritonlm.encoders.shapes import Shape

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=30)


def num_padded_tokens(lengths, batches):
    return sum(len(batch) * max(lengths[place] for place in batch) for batch in batches)


@given(LENGTHS, st.integers(1, 400), st.integers(0, 100))
def test_every_row_is_in_one_batch_that_is_not_too_large(lengths, max_tokens, batch_cost):
    batches = cut(lengths, max_tokens, batch_cost)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or num_padded_tokens(lengths, [batch]) <= max_tokens


@given(LENGTHS)
def test_batches_that_cost_nothing_have_no_padding(lengths):
    assert num_padded_tokens(lengths, cut(lengths, 10_000, batch_cost=0)) == sum(lengths)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=7), st.integers(0, 40))
def test_no_other_cut_of_the_sorted_rows_is_cheaper(lengths, batch_cost):
    def cost(ascending):
        """Of the best cut, by trying every first batch."""
        return min((end * ascending[end - 1] + batch_cost + cost(ascending[end:])
                    for end in range(1, len(ascending) + 1)), default=0)

    batches = cut(lengths, 10_000, batch_cost)
    assert num_padded_tokens(lengths, batches) + batch_cost * len(batches) == cost(sorted(lengths))


def test_short_rows_are_not_padded_to_the_longest():
    batches = cut([5, 300, 6, 5, 280, 6], 10_000, batch_cost=32)
    assert {frozenset(batch.tolist()) for batch in batches} == {frozenset({0, 2, 3, 5}),
                                                               frozenset({1, 4})}


@pytest.mark.parametrize("is_left", [False, True])
def test_rows_are_padded_on_one_side(is_left):
    rows = [Row(np.array([5, 6, 7], np.int32), np.array([0, 1, 1], np.int32)),
            Row(np.array([8], np.int32))]
    padded = pad(rows, Shape(2, 3), 9, is_left)
    assert padded.input_ids.tolist() == [[5, 6, 7], [9, 9, 8] if is_left else [8, 9, 9]]
    assert padded.attention_mask.tolist() == [[1, 1, 1], [0, 0, 1] if is_left else [1, 0, 0]]
    assert padded.token_type_ids.tolist() == [[0, 1, 1], [0, 0, 0]]


@pytest.mark.parametrize("is_left", [False, True])
def test_rows_are_padded_to_more_and_longer_ones(is_left):
    padded = pad([Row(np.array([5, 6], np.int32))], Shape(2, 4), 9, is_left)
    assert padded.input_ids.tolist() == [[9, 9, 5, 6] if is_left else [5, 6, 9, 9], [9] * 4]
    assert padded.attention_mask.tolist() == [[0, 0, 1, 1] if is_left else [1, 1, 0, 0],
                                              [0, 0, 0, 1] if is_left else [1, 0, 0, 0]]
