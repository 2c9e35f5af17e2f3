"""Changes to logits against transformers' processors, and penalties written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from drive import submit
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
)

from tritonlm.engine.penalties import adjust
from tritonlm.engine.table import RequestTable

VOCAB_SIZE = 24
EOS = [3, 5]
NUM_ROWS = 12
MAX_LEN = 40
OPTIONS = {
    "repetition_penalty": lambda random: float(random.choice([0.7, 1.3, 2.0])),
    "presence_penalty": lambda random: float(random.uniform(-2, 2)),
    "frequency_penalty": lambda random: float(random.uniform(-2, 2)),
    "min_tokens": lambda random: int(random.integers(1, 12)),
    "stop_token_ids": lambda random: tuple(random.integers(0, VOCAB_SIZE, 2).tolist()),
    "ignore_eos": lambda random: True,
    "logit_bias": lambda random: tuple(  # transformers 5.17 has no bias for id 0
        {int(i): float(random.uniform(-100, 100)) for i in random.integers(1, VOCAB_SIZE, 6)}
        .items()),
    "banned": lambda random: tuple(
        tuple(random.integers(6, 9, size).tolist()) for size in random.integers(1, 5, 20)),
}


class Rows:
    """A table of requests that have said something already."""

    def __init__(self, num_rows=NUM_ROWS):
        self.table = RequestTable(num_rows, MAX_LEN, 4, np.array(EOS, np.int32))
        self.requests = {}

    def add(self, prompt, output, **options):
        request = submit(len(self.requests), prompt, MAX_LEN - len(prompt), **options)
        row = self.table.add(0, request)
        history = [*prompt, *output]
        self.table.token_ids[row, : len(history)] = history
        self.table.num_tokens[row] = len(history)
        self.requests[row] = (request, list(prompt), list(output))
        return row

    def adjust(self, logits, rows):
        """The table does not know the last tokens yet."""
        rows = np.array(rows, np.int32)
        ends = self.table.num_tokens[rows] - 1
        newest = torch.from_numpy(self.table.token_ids[rows, ends]).long()
        self.table.token_ids[rows, ends] = -1
        adjusted = adjust(logits, self.table, rows, newest)
        self.table.token_ids[rows, ends] = newest.numpy()
        return adjusted


def reference(logits, request, prompt, output):
    """One row's logits, [V], by transformers; presence and frequency as OpenAI writes them."""
    history = torch.tensor([[*prompt, *output]])
    processors = LogitsProcessorList()
    if request.logit_bias:
        bias = [[[token_id], value] for token_id, value in request.logit_bias]
        processors.append(SequenceBiasLogitsProcessor(bias))
    if request.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(request.repetition_penalty))
    if request.banned:
        processors.append(NoBadWordsLogitsProcessor([list(ids) for ids in set(request.banned)]))
    stop_ids = [*request.stop_token_ids, *([] if request.ignore_eos else EOS)]
    if request.min_tokens and stop_ids:
        processors.append(MinNewTokensLengthLogitsProcessor(
            len(prompt), request.min_tokens, stop_ids))
    scores = processors(history, logits[None].clone())[0]
    for token_id in range(VOCAB_SIZE):
        count = output.count(token_id)
        scores[token_id] -= (count * request.frequency_penalty
                             + (count > 0) * request.presence_penalty)
    return scores


def random_rows(random):
    """Rows with all kinds of options, and with none."""
    rows = Rows()
    for _ in range(NUM_ROWS):
        names = [name for name in OPTIONS if random.random() < random.choice([0, 0.4, 0.9])]
        options = {name: OPTIONS[name](random) for name in names}
        prompt = random.integers(6, 12, random.integers(1, 20)).tolist()
        output = random.integers(6, 12, random.integers(0, 15)).tolist()
        rows.add(prompt, output, **options)
    return rows


@pytest.mark.parametrize("seed", range(30))
def test_random_batches_equal_transformers_and_each_row_alone(seed):
    random = np.random.default_rng(seed)
    rows = random_rows(random)
    order = random.permutation(NUM_ROWS)
    logits = torch.randn(NUM_ROWS, VOCAB_SIZE, generator=torch.Generator().manual_seed(seed)) * 4
    given = logits.clone()
    adjusted = rows.adjust(logits, order)
    assert torch.equal(logits, given), "changed in place"
    for place, row in enumerate(order.tolist()):
        expected = reference(logits[place], *rows.requests[row])
        torch.testing.assert_close(adjusted[place], expected, rtol=1e-5, atol=1e-5)
        alone = rows.adjust(logits[place : place + 1], [row])[0]
        assert torch.equal(alone, adjusted[place])


def one_row(prompt, output, **options):
    """What of equal logits is left: -inf, or how much was added."""
    rows = Rows(1)
    row = rows.add(prompt, output, **options)
    return rows.adjust(torch.ones(1, VOCAB_SIZE), [row])[0] - 1


def test_a_sequence_is_banned_by_its_last_token_after_its_others():
    banned = ((7, 8, 9), (10,))
    assert (one_row([6, 7], [8], banned=banned) == -torch.inf).nonzero().flatten().tolist() == [
        9, 10], "the prompt is a part of what came before"
    assert (one_row([6, 8], [7], banned=banned) == -torch.inf).nonzero().flatten().tolist() == [10]
    assert (one_row([8], [], banned=banned) == -torch.inf).nonzero().flatten().tolist() == [10]


def test_the_presence_and_frequency_penalties_do_not_see_the_prompt():
    added = one_row([6, 7], [8, 8, 9], presence_penalty=0.5, frequency_penalty=0.25)
    assert {i: value for i, value in enumerate(added.tolist()) if value} == {8: -1.0, 9: -0.75}


def test_the_repetition_penalty_sees_the_prompt():
    added = one_row([6, 7], [8], repetition_penalty=2.0)
    assert added.nonzero().flatten().tolist() == [6, 7, 8]


@pytest.mark.parametrize(("num_output", "is_banned"), [(0, True), (2, True), (3, False)])
def test_stop_tokens_are_banned_up_to_min_tokens(num_output, is_banned):
    added = one_row([6], [7] * num_output, min_tokens=3, stop_token_ids=(9,))
    expected = [3, 5, 9] if is_banned else []
    assert (added == -torch.inf).nonzero().flatten().tolist() == expected


def test_a_row_keeps_nothing_of_the_request_before():
    rows = Rows(1)
    rows.add([6], [7, 7], banned=((7, 8), (9,)), logit_bias=((6, 5.0), (7, 1.0)), min_tokens=5,
             repetition_penalty=3.0, presence_penalty=1.0, frequency_penalty=1.0)
    rows.table.remove(0)
    row = rows.add([6], [7], logit_bias=((8, 1.0),))
    added = rows.adjust(torch.ones(1, VOCAB_SIZE), [row])[0] - 1
    assert {i: value for i, value in enumerate(added.tolist()) if value} == {8: 1.0}


def test_ids_that_the_model_can_read_but_not_write_are_passed_over():
    rows = Rows(1)
    row = rows.add([6, VOCAB_SIZE + 5], [], repetition_penalty=2.0, min_tokens=2,
                   stop_token_ids=(2**31 - 1,))
    added = rows.adjust(torch.ones(1, VOCAB_SIZE), [row])[0] - 1
    assert (added == 0).logical_not().nonzero().flatten().tolist() == [3, 5, 6]


@pytest.mark.parametrize("options", [
    {"banned": ((VOCAB_SIZE,), (7, VOCAB_SIZE + 1))}, {"logit_bias": ((VOCAB_SIZE + 5, 1.0),)}])
def test_ids_that_only_the_tokenizer_knows_change_nothing(options):
    assert not one_row([6], [7], **options).any()
