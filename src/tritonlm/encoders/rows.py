"""What is computed: rows of token ids, and several of them padded to one length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tritonlm.encoders.shapes import Shape

Ids = NDArray[np.int32]


@dataclass(frozen=True)
class Row:
    """Token ids of a text or pair, int32 [n], n > 0; without `type_ids` all of type 0."""

    ids: Ids
    type_ids: Ids | None = None


Item: TypeAlias = Row | tuple[str, ...]
"""A row, or the text or pair of texts that is to become one."""


@dataclass(frozen=True)
class PaddedRows:
    """Rows as a model takes them: int64 [rows, length] each."""

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    token_type_ids: NDArray[np.int64]


def shape_of(rows: Sequence[Row]) -> Shape:
    """What they are padded to at least."""
    return Shape(len(rows), max(row.ids.size for row in rows))


def pad(rows: Sequence[Row], shape: Shape, pad_id: int, is_left: bool = False) -> PaddedRows:
    """`rows` padded to `shape`, before their ids if `is_left`, else after them.

    Rows beyond them have a single token, so that what is computed of these is finite.
    """
    ids = np.full(shape, pad_id)
    mask, types = np.zeros_like(ids), np.zeros_like(ids)
    mask[len(rows):, -1 if is_left else 0] = 1
    for place, row in enumerate(rows):
        num_ids = row.ids.size
        own = (place, slice(shape.length - num_ids, None) if is_left else slice(num_ids))
        ids[own], mask[own] = row.ids, 1
        if row.type_ids is not None:
            types[own] = row.type_ids
    return PaddedRows(ids, mask, types)
