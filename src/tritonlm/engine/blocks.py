"""The blocks of the KV cache: which are free."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class BlockPool:
    """Hands out and takes back block numbers 0 to `num_blocks` - 1."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._free = np.arange(num_blocks - 1, -1, -1, dtype=np.int32)
        self.num_free = num_blocks

    @property
    def num_used(self) -> int:
        """Blocks that hold tokens of some request."""
        return self.num_blocks - self.num_free

    def take(self, count: int) -> NDArray[np.int32]:
        """`count` free blocks, int32 [count]; the caller has seen that there are as many."""
        assert count <= self.num_free, "the scheduler asked for blocks that are not there"
        self.num_free -= count
        return self._free[self.num_free : self.num_free + count].copy()

    def give_back(self, blocks: NDArray[np.int32]) -> None:
        """Make `blocks` free again."""
        assert self.num_free + blocks.size <= self.num_blocks, "a block came back twice"
        self._free[self.num_free : self.num_free + blocks.size] = blocks
        self.num_free += blocks.size
