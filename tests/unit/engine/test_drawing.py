"""The kernel that draws against the sampler that sorts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from tritonlm.engine.sampler import SamplingRows, sample
from tritonlm.engine.sampling_columns import SamplingColumns

pytest.importorskip("triton")

from tritonlm.engine import drawing
from tritonlm.engine.drawing import DrawOptions, draw

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
NUM_ROWS = 512 if ON_GPU else 24
DTYPES = [torch.float32, torch.float16, *([torch.bfloat16] if ON_GPU else [])]
SETTINGS = {
    "temperature": (0.0, 0.3, 1.0, 1.7),
    "top_p": (1.0, 0.9, 0.4, 1e-6),
    "top_k": (0, 1, 7, 10**6),
    "min_p": (0.0, 0.02, 0.6, 1.0),
}


def random_rows(num_rows: int) -> SamplingRows:
    """Rows with all combinations of the options, as far as they reach."""
    random = np.random.default_rng(5)
    all_options = list(itertools.product(*SETTINGS.values()))
    chosen = random.permutation(len(all_options))[np.arange(num_rows) % len(all_options)]
    columns = np.array([all_options[place] for place in chosen], np.float32).T
    temperature, top_p, top_k, min_p = (torch.from_numpy(column.copy()) for column in columns)
    return SamplingRows(
        temperature=temperature, top_p=top_p, top_k=top_k.long(), min_p=min_p,
        typical_p=torch.ones(num_rows), is_typical=False,
        seed=torch.from_numpy(random.integers(-2**63, 2**63, num_rows)),
        position=torch.from_numpy(random.integers(1, 5000, num_rows)))


def options_of(rows: SamplingRows) -> DrawOptions:
    columns = SamplingColumns(rows.seed.numel())
    for name in ("temperature", "top_p", "top_k", "min_p"):
        getattr(columns, name)[:] = getattr(rows, name).numpy()
    columns.seed[:] = rows.seed.numpy().view(np.uint64)
    return DrawOptions(torch.arange(rows.seed.numel(), dtype=torch.int32, device=DEVICE) + 1,
                       torch.from_numpy(columns.draw_words).to(DEVICE),
                       rows.position.int().to(DEVICE))


def drawn(logits: torch.Tensor, rows: SamplingRows) -> torch.Tensor:
    last_token = torch.full((len(logits) + 1,), -1, dtype=torch.int32, device=DEVICE)
    tokens = draw(logits.to(DEVICE), options_of(rows), last_token)
    assert torch.equal(last_token[1:], tokens)
    assert last_token[0] == -1
    return tokens.long().cpu()


@pytest.mark.parametrize("vocab_size", [5, 100, 40_000 if ON_GPU else 300])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_it_draws_what_the_sampler_draws(dtype, vocab_size, monkeypatch):
    if not ON_GPU:  # several rounds of a loop, all the same
        monkeypatch.setattr(drawing, "MOST_IDS", 128)
    rows = random_rows(NUM_ROWS)
    logits = torch.randn(NUM_ROWS, vocab_size, generator=torch.Generator().manual_seed(1)) * 3
    # Many are equal, as they are in 16 bits.
    logits = torch.where(torch.arange(NUM_ROWS)[:, None] % 2 == 0, logits.round(), logits)
    logits = logits.to(dtype)
    assert torch.equal(drawn(logits, rows), sample(logits.float(), rows))


def test_the_lowest_temperatures_take_the_likeliest_token():
    rows = random_rows(3)
    rows.temperature[:] = torch.tensor([1e-3, 1e-38, 1e-45])
    logits = torch.randn(3, 60, generator=torch.Generator().manual_seed(4)) * 9
    assert torch.equal(drawn(logits, rows), logits.argmax(dim=1))


def test_infinite_logits_are_never_drawn():
    rows = random_rows(NUM_ROWS)
    logits = torch.full((NUM_ROWS, 60), -torch.inf)
    logits[:, 20:23] = torch.tensor([1.0, 1.0, 0.5])
    assert torch.equal(drawn(logits, rows), sample(logits, rows))


def test_rows_are_read_with_their_stride():
    rows = random_rows(4)
    wide = torch.randn(4, 90, generator=torch.Generator().manual_seed(2))
    assert torch.equal(drawn(wide.to(DEVICE)[:, :50], rows), sample(wide[:, :50], rows))
