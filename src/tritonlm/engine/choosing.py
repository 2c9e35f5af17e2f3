"""The last part of a step: from logits to tokens, and to what requests asked to know of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tritonlm.engine.batch import Batch
from tritonlm.engine.logprobs import output_logprobs, prompt_logprobs
from tritonlm.engine.penalties import adjust
from tritonlm.engine.sampler import SamplingRows, sample
from tritonlm.engine.table import RequestTable
from tritonlm.engine.token_logprobs import TokenLogprobs


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

    `logits`, float32 [m, V], are those after the last token of each, which are `newest`,
    int64 [m]; `asked`, [n, V] in any precision, those after the n tokens `batch.asked`.
    """
    logprobs, rows = [], batch.rows[batch.sampled]
    if batch.asked.size:
        logprobs.append(prompt_logprobs(asked, batch, table))
    if not rows.size:
        return Chosen(newest, logprobs)
    scores = logits
    if table.sampling.changes_logits[rows].any():
        scores = adjust(logits, table, rows, newest)
    if table.sampling.temperature[rows].any():
        token_ids = sample(scores, SamplingRows.of(table, rows, logits.device))
    else:
        token_ids = scores.argmax(dim=-1)
    measured = output_logprobs(logits, batch, table, token_ids)
    return Chosen(token_ids, [*logprobs, *([measured] if measured is not None else [])])

