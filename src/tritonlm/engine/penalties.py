"""What requests add to their logits: bias, bans, penalties on what was said before, grammars.

All of it follows from the table's history of the row, so a request that was pre-empted goes on as
if nothing had happened, and a row gets the same in any batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tritonlm.engine.batch import Int32
from tritonlm.engine.device import put
from tritonlm.engine.grammar import WORD_BITS, Grammar
from tritonlm.engine.sampling_columns import NOTHING
from tritonlm.engine.table import RequestTable, Rows

BEFORE = -2
"""Stands where a row has no token yet; no banned sequence has it."""


def adjust(
    logits: torch.Tensor, table: RequestTable, rows: Rows, newest: torch.Tensor
) -> torch.Tensor:
    """`logits`, float32 [m, V], as the options of `rows`, [m], change them; not in place.

    In the order of `transformers.generate`: bias, bans, repetition penalty; then the frequency
    and presence penalties, and grammars. `newest`, int64 [m], has the last token of each row,
    which may not have reached the table.
    """
    scores = logits.clone()
    _add_bias(scores, table, rows)
    _ban_early_stops(scores, table, rows)
    _ban_words(scores, table, rows, newest)
    _penalise(scores, table, rows, newest)
    _hold_to_grammars(scores, logits, table, rows)
    return scores


def _add_bias(logits: torch.Tensor, table: RequestTable, rows: Rows) -> None:
    columns = table.sampling
    places = np.flatnonzero(columns.num_biased[rows])
    if places.size:
        biased = rows[places]
        width = columns.num_biased[biased].max()
        ids, biases = columns.biased_ids[biased, :width], columns.biases[biased, :width]
        # A tokenizer may know ids that the model cannot write.
        is_token = ids < logits.shape[1]
        _add(logits, places, np.where(is_token, ids, 0), np.where(is_token, biases, np.float32(0)))


def _ban_early_stops(logits: torch.Tensor, table: RequestTable, rows: Rows) -> None:
    """No stop token before `min_tokens` others."""
    num_output = table.num_tokens[rows] - table.num_prompt[rows]
    places = np.flatnonzero(num_output < table.sampling.min_tokens[rows])
    if places.size:
        stop_ids = table.stop_ids[rows[places]]
        is_token = (stop_ids >= 0) & (stop_ids < logits.shape[1])
        _add(logits, places, np.where(is_token, stop_ids, 0),
             np.where(is_token, np.float32(-np.inf), np.float32(0)))


def _ban_words(
    logits: torch.Tensor, table: RequestTable, rows: Rows, newest: torch.Tensor
) -> None:
    """No last token of a banned sequence after its others; the prompt counts, too."""
    columns = table.sampling
    places = np.flatnonzero(columns.num_banned[rows])
    if not places.size:
        return
    banned_rows = rows[places]
    width = columns.num_banned[banned_rows].max()
    length = max(int(columns.longest_banned[banned_rows].max()), 2)
    banned = _to(logits, columns.banned[banned_rows, :width, -length:])
    recent = _to(logits, _recent_tokens(table, banned_rows, length - 1))
    recent[:, -1] = newest[_to(logits, places)]
    beginnings, last = banned[:, :, :-1], banned[:, :, -1]
    is_begun = ((beginnings == NOTHING) | (beginnings == recent[:, None])).all(2)
    is_banned = is_begun & (last != NOTHING) & (last < logits.shape[1])
    ban = torch.zeros_like(last, dtype=logits.dtype).masked_fill(is_banned, -torch.inf)
    index = (_to(logits, places)[:, None], last.long().clamp(0, logits.shape[1] - 1))
    logits.index_put_(index, ban, accumulate=True)


def _recent_tokens(table: RequestTable, rows: Rows, count: int) -> Int32:
    """The last `count` tokens of each row, `BEFORE` where it has fewer: [n, count]."""
    positions = table.num_tokens[rows, None] + np.arange(-count, 0)
    tokens = table.token_ids[rows[:, None], positions.clip(0)]
    return np.where(positions < 0, np.int32(BEFORE), tokens)


def _penalise(
    logits: torch.Tensor, table: RequestTable, rows: Rows, newest: torch.Tensor
) -> None:
    places = np.flatnonzero(table.sampling.has_penalty[rows])
    if not places.size:
        return
    penalised, index = rows[places], _to(logits, places)
    penalties = table.sampling.penalties(penalised)
    # Only the repetition penalty looks at prompts, which may be long.
    first = 0 if (penalties[:, 0] != 1).any() else int(table.num_prompt[penalised].min()) - 1
    num_prompt, num_tokens = table.num_prompt[penalised, None], table.num_tokens[penalised, None]
    positions = np.arange(first, num_tokens.max())
    history = _to(logits, table.token_ids[penalised, first : num_tokens.max()]).long()
    history.scatter_(1, _to(logits, num_tokens - 1 - first).long(), newest[index, None])
    scores = logits[index]
    is_known = positions < num_tokens
    num_seen = _counts(scores, history, _to(logits, is_known))
    num_said = _counts(scores, history, _to(logits, is_known & (positions >= num_prompt)))
    repetition, presence, frequency = _to(logits, penalties)[:, :, None].unbind(1)
    repeated = torch.where(scores < 0, scores * repetition, scores / repetition)
    scores = torch.where(num_seen > 0, repeated, scores)
    logits[index] = scores - frequency * num_said - presence * (num_said > 0)


def _counts(scores: torch.Tensor, token_ids: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """How often each token is among `token_ids`, [n, L], where `counts` is true; as `scores`."""
    width = scores.shape[1]
    totals = scores.new_zeros(scores.shape[0], width + 1)
    ids = token_ids.clamp(max=width)  # a model may read ids that it cannot write
    return totals.scatter_add_(1, ids, counts.to(totals.dtype))[:, :width]


def _hold_to_grammars(
    scores: torch.Tensor, logits: torch.Tensor, table: RequestTable, rows: Rows
) -> None:
    """Only what grammars allow; where the bans leave nothing of that, they do not count."""
    places = np.flatnonzero(table.sampling.is_guided[rows])
    if not places.size:
        return
    index, masks = _to(logits, places), _to(logits, Grammar.masks(table.grammars(rows[places])))
    ids = torch.arange(logits.shape[1], device=logits.device)
    is_excluded = (masks[:, ids // WORD_BITS] >> ids % WORD_BITS) & 1 == 0
    held = scores[index].masked_fill(is_excluded, -torch.inf)
    is_empty = held.isneginf().all(dim=1, keepdim=True)
    scores[index] = torch.where(is_empty, logits[index].masked_fill(is_excluded, -torch.inf), held)


def _add(
    logits: torch.Tensor, places: NDArray[np.intp], token_ids: Int32, values: NDArray[np.float32]
) -> None:
    """Add `values`, [n, k], to the logits of `token_ids`, [n, k], in the rows `places`, [n]."""
    index = (_to(logits, places)[:, None], _to(logits, token_ids).long())
    logits.index_put_(index, _to(logits, values), accumulate=True)


def _to(logits: torch.Tensor, values: NDArray[Any]) -> torch.Tensor:
    return put(values, logits.device)
