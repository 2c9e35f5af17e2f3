"""The last part of a step: from logits to tokens, and to what requests asked to know of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tritonlm.engine.batch import Batch
from tritonlm.engine.logprobs import output_logprobs, prompt_logprobs
from tritonlm.engine.penalties import adjust
from tritonlm.engine.sampler import SamplingRows, sample
from tritonlm.engine.table import RequestTable
from tritonlm.engine.token_logprobs import TokenLogprobs

Places = NDArray[np.intp]
NO_PLACES: Places = np.zeros(0, np.intp)


@dataclass(frozen=True)
class Chosen:
    """The tokens of `batch.sampled`, int64 [m], still on the device, and log probabilities."""

    token_ids: torch.Tensor
    logprobs: Sequence[TokenLogprobs]


def choose(
    logits: torch.Tensor, batch: Batch, table: RequestTable, places: Places, newest: torch.Tensor
) -> Chosen:
    """Draw a token for each of `batch.sampled`.

    `logits`, float32 [n + m, V], are those after `places`, [n] of the T tokens, whose log
    probabilities are wanted, and then those after the last token of each of `batch.sampled`;
    these tokens are `newest`, int64 [m].
    """
    logprobs = []
    if places.size:
        logprobs.append(prompt_logprobs(logits[: places.size], batch, table, places))
    logits, rows = logits[places.size :], batch.rows[batch.sampled]
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


def last_places(batch: Batch) -> Places:
    """Which of the T tokens are the last of `batch.sampled`."""
    if batch.num_decodes == batch.rows.size:
        return batch.sampled
    return (batch.query_starts[1:][batch.sampled] - 1).astype(np.intp)
