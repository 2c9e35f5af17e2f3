"""Measures log probabilities: those of the model, before any option changes its logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tritonlm.engine.batch import Batch, Int32
from tritonlm.engine.device import put
from tritonlm.engine.slices import slices
from tritonlm.engine.table import RequestTable
from tritonlm.engine.token_logprobs import TokenLogprobs

BYTES_PER_LOGIT = 16
"""What measuring takes."""


def prompt_logprobs(logits: torch.Tensor, batch: Batch, table: RequestTable) -> TokenLogprobs:
    """Of the tokens that follow `batch.asked`, n > 0; there the model says `logits`, [n, V]."""
    rows = np.repeat(batch.rows, batch.num_new)[batch.asked]
    positions = batch.positions[batch.asked] + 1
    token_ids = put(table.token_ids[rows, positions], logits.device)
    count = int(table.sampling.num_prompt_logprobs[rows].max())
    places = torch.arange(rows.size, device=logits.device)
    return TokenLogprobs(rows, positions, *_measure(logits, places, token_ids, count))


def output_logprobs(
    logits: torch.Tensor, batch: Batch, table: RequestTable, token_ids: torch.Tensor
) -> TokenLogprobs | None:
    """Of the sampled `token_ids`, [m], where asked for; the model says `logits`, [m, V]."""
    rows = batch.rows[batch.sampled]
    asked = np.flatnonzero(table.sampling.num_logprobs[rows] >= 0)
    if not asked.size:
        return None
    count = int(table.sampling.num_logprobs[rows].max())
    return TokenLogprobs(rows[asked], batch.context_lens[batch.sampled][asked],
                         *_measure(logits, put(asked, logits.device), token_ids, count))


def _measure(
    logits: torch.Tensor, places: torch.Tensor, token_ids: torch.Tensor, count: int
) -> tuple[Int32, NDArray[np.float32]]:
    """Ids and log probabilities of those of `token_ids` and `logits`, [m] and [m, V], that stand
    at `places`, int64 [n], and of the `count` most likely tokens there.
    """
    count = min(count, logits.shape[1])
    parts = [places[part] for part in slices(len(places), logits.shape[1] * BYTES_PER_LOGIT)]
    pairs = [_measure_slice(logits[part], token_ids[part], count) for part in parts]
    ids, values = zip(*pairs, strict=True)
    return _on_host(torch.cat(ids).int()), _on_host(torch.cat(values))


def _measure_slice(
    logits: torch.Tensor, token_ids: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    logprobs = logits.float().log_softmax(dim=-1)
    own_ids, last_id = token_ids.long()[:, None], logits.shape[1] - 1
    own_values = logprobs.gather(1, own_ids.clamp(max=last_id))
    # A model may read ids that it cannot write.
    own_values = own_values.masked_fill(own_ids > last_id, -torch.inf)
    values, ids = logprobs.topk(count, dim=-1)
    return torch.cat((own_ids, ids), 1), torch.cat((own_values, values), 1)


def _on_host(values: torch.Tensor) -> NDArray[Any]:
    """An array that `values` are on the way to; they are there when the step is over."""
    pinned = torch.empty(values.shape, dtype=values.dtype, pin_memory=values.is_cuda)
    return pinned.copy_(values, non_blocking=True).numpy()
