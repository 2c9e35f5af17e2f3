"""The sampler against transformers' logits processors and against chance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from tritonlm.engine.sampler import SamplingRows, sample, uniform

VOCAB_SIZE = 40
NUM_DRAWS = 20_000


def rows(count, temperature=1.0, top_p=1.0, top_k=0, min_p=0.0, seed=0, typical_p=1.0):
    return SamplingRows(
        temperature=torch.full((count,), temperature), top_p=torch.full((count,), top_p),
        top_k=torch.full((count,), top_k), min_p=torch.full((count,), min_p),
        seed=torch.full((count,), seed), position=torch.arange(count),
        typical_p=torch.full((count,), typical_p),
        is_typical=typical_p < 1)


def frequencies(logits, **options):
    tokens = sample(logits.expand(NUM_DRAWS, -1), rows(NUM_DRAWS, **options))
    return torch.bincount(tokens, minlength=VOCAB_SIZE) / NUM_DRAWS


@pytest.mark.parametrize("options", [
    {}, {"temperature": 0.6}, {"top_k": 5}, {"top_p": 0.7}, {"min_p": 0.2}, {"typical_p": 0.4},
    {"temperature": 1.5, "top_k": 12, "top_p": 0.8, "min_p": 0.05},
    {"temperature": 1.5, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "typical_p": 0.7},
], ids=str)
def test_draws_follow_the_distribution_of_transformers(options):
    logits = torch.randn(1, VOCAB_SIZE, generator=torch.Generator().manual_seed(1)) * 2
    processors = LogitsProcessorList([TemperatureLogitsWarper(options.get("temperature", 1.0))])
    if "top_k" in options:
        processors.append(TopKLogitsWarper(options["top_k"]))
    if "top_p" in options:
        processors.append(TopPLogitsWarper(options["top_p"]))
    if "min_p" in options:
        processors.append(MinPLogitsWarper(options["min_p"]))
    if "typical_p" in options:
        processors.append(TypicalLogitsWarper(options["typical_p"]))
    expected = processors(torch.zeros(1, 1, dtype=torch.long), logits.clone()).softmax(-1)[0]
    measured = frequencies(logits, **options)
    assert torch.equal(measured > 0, (expected > 0) & (measured > 0)), "an excluded token came out"
    deviation = (measured - expected).abs() / (expected * (1 - expected) / NUM_DRAWS).sqrt()
    assert deviation.nan_to_num(0, posinf=0).max() < 5


def test_the_likeliest_token_may_be_too_untypical():
    logits = torch.tensor([[0.4, *[0.6 / 30] * 30, *[0.0] * 9]]).log()
    expected = TypicalLogitsWarper(0.5)(torch.zeros(1, 1, dtype=torch.long), logits)[0] > -torch.inf
    assert not expected[0]
    assert torch.equal(frequencies(logits, typical_p=0.5) > 0, expected)


def test_a_row_draws_the_same_in_any_batch():
    logits = torch.randn(8, VOCAB_SIZE, generator=torch.Generator().manual_seed(2))
    together = sample(logits, rows(8, seed=7))
    for row in range(8):
        options = rows(8, seed=7)
        alone = SamplingRows(**{name: value[row : row + 1] if isinstance(value, torch.Tensor)
                                else value for name, value in vars(options).items()})
        assert sample(logits[row : row + 1], alone).item() == together[row]


def test_greedy_and_sampling_rows_share_a_batch():
    logits = torch.randn(1, VOCAB_SIZE).expand(1000, -1)
    options = rows(1000)
    options.temperature[::2] = 0
    tokens = sample(logits, options)
    assert (tokens[::2] == logits[0].argmax()).all()
    assert tokens[1::2].unique().numel() > 1


@pytest.mark.parametrize("temperature", [1e-3, 1e-38, 1e-45])
def test_the_lowest_temperatures_take_the_likeliest_token(temperature):
    logits = torch.tensor([[1.0, 5.0, 9.0, 30.0, -torch.inf]])
    assert sample(logits, rows(1, temperature=temperature)).item() == 3


def test_seeds_give_different_uniform_numbers():
    seeds = torch.arange(100)[:, None].expand(-1, 1000)
    numbers = uniform(seeds, torch.arange(1000).expand(100, -1)).flatten().numpy()
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert np.unique(numbers).size == numbers.size
    counts = np.histogram(numbers, bins=100, range=(0, 1))[0]
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000)


def test_uniform_numbers_are_those_of_splitmix64():
    def mix(bits):
        bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB % 2**64
        return bits ^ (bits >> 31)

    gamma = 0x9E3779B97F4A7C15
    for seed in (0, 1, 2**63 - 1):
        expected = (mix((mix((seed + gamma) % 2**64) + 5 * gamma) % 2**64) >> 11) * 2.0**-53
        assert uniform(torch.tensor(seed), torch.tensor(5)).item() == expected
