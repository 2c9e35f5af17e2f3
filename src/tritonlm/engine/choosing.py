"""The last part of a step: from logits to tokens, and to what requests asked to know of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tritonlm.engine.batch import Batch
from tritonlm.engine.logprobs import output_logprobs, prompt_logprobs
from tritonlm.engine.penalties import adjust
from tritonlm.engine.sampler import SamplingRows, sample
from tritonlm.engine.slices import slices
from tritonlm.engine.table import RequestTable, Rows
from tritonlm.engine.token_logprobs import TokenLogprobs

BYTES_PER_LOGIT = 128
"""What drawing takes, with all options."""


@dataclass(frozen=True)
class Chosen:
    """The tokens of `batch.sampled`, int64 [m], still on the device, and log probabilities."""

    token_ids: torch.Tensor
    logprobs: Sequence[TokenLogprobs]


def choose(
    asked: torch.Tensor, logits: torch.Tensor, batch: Batch, table: RequestTable,
    newest: torch.Tensor,
) -> Chosen:
    """Draw a token for each of `batch.sampled`.

    `logits`, [m, V], are those after the last token of each, which are `newest`, int64 [m];
    `asked`, [n, V], those after the n tokens `batch.asked`. Both may be in any precision.
    """
    logprobs, rows = [], batch.rows[batch.sampled]
    if batch.asked.size:
        logprobs.append(prompt_logprobs(asked, batch, table))
    if not rows.size:
        return Chosen(newest, logprobs)
    token_ids = torch.cat([_draw(logits[part], table, rows[part], newest[part])
                           for part in slices(len(rows), logits.shape[1] * BYTES_PER_LOGIT)])
    measured = output_logprobs(logits, batch, table, token_ids)
    return Chosen(token_ids, [*logprobs, *([measured] if measured is not None else [])])


def _draw(
    logits: torch.Tensor, table: RequestTable, rows: Rows, newest: torch.Tensor
) -> torch.Tensor:
    scores = logits.float()
    if table.sampling.changes_logits[rows].any():
        scores = adjust(scores, table, rows, newest)
    if table.sampling.temperature[rows].any():
        return sample(scores, SamplingRows.of(table, rows, logits.device))
    return scores.argmax(dim=-1)
