"""Which rows are computed together: those of about one length, so that little is padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def cut(
    lengths: Sequence[int], max_tokens: int, batch_cost: int
) -> list[NDArray[np.int64]]:
    """Indices of the rows of each batch: the cheapest way to cut the rows sorted by length.

    A batch costs its tokens, padding included, and `batch_cost` beside them. It has at most
    `max_tokens`, or a single row.
    """
    order = np.argsort(lengths, kind="stable")
    ascending = np.asarray(lengths, np.int64)[order]
    cost = np.zeros(order.size + 1)
    begin_of = np.zeros(order.size + 1, np.int64)
    for end in range(1, order.size + 1):
        begins = np.arange(end)
        tokens = (end - begins) * ascending[end - 1]
        totals = cost[:end] + tokens + batch_cost
        totals[(tokens > max_tokens) & (begins < end - 1)] = np.inf
        begin_of[end] = totals.argmin()
        cost[end] = totals[begin_of[end]]
    batches = []
    end = order.size
    while end:
        batches.append(order[begin_of[end]:end])
        end = int(begin_of[end])
    return batches
