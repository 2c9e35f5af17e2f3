"""Shapes that batches are padded to, so that few of them suit all batches."""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

NUMS_OF_ROWS = (1, 2, 4, 8, 16, 32, 64)
LENGTHS = (16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)
MAX_TOKENS = 8192
"""In a larger batch, computing takes a GPU longer than being told what to compute takes."""


class Shape(NamedTuple):
    """Of a batch."""

    num_rows: int
    length: int

    @property
    def num_tokens(self) -> int:
        """Those of padding included."""
        return self.num_rows * self.length


class Shapes:
    """Those for rows of up to `max_row_len` tokens in batches of up to `max_batch_tokens`."""

    def __init__(self, max_row_len: int, max_batch_tokens: int) -> None:
        self._max_tokens = min(max_batch_tokens, MAX_TOKENS)
        self._lengths = [*(length for length in LENGTHS if length < max_row_len), max_row_len]

    def all(self) -> list[Shape]:
        """Each of them, the largest first."""
        shapes = (Shape(num_rows, length) for num_rows in NUMS_OF_ROWS for length in self._lengths)
        return sorted((shape for shape in shapes if shape.num_tokens <= self._max_tokens),
                      key=lambda shape: -shape.num_tokens)

    def around(self, own: Shape) -> Shape | None:
        """The smallest that a batch of that shape fits into; None if it is too large for all."""
        if own.num_rows > NUMS_OF_ROWS[-1] or own.length > self._lengths[-1]:
            return None
        shape = Shape(NUMS_OF_ROWS[bisect_left(NUMS_OF_ROWS, own.num_rows)],
                      self._lengths[bisect_left(self._lengths, own.length)])
        return shape if shape.num_tokens <= self._max_tokens else None
