"""Rows of logits, as many at a time as a bounded part of the memory takes."""

from __future__ import annotations

SLICE_BYTES = 2**28


def slices(num_rows: int, bytes_per_row: int) -> list[slice]:
    """`num_rows` rows in parts that take `SLICE_BYTES` at most, or are one row."""
    size = max(SLICE_BYTES // bytes_per_row, 1)
    return [slice(start, start + size) for start in range(0, num_rows, size)]
