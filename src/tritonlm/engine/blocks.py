"""The blocks of the KV cache: who holds them, and which can be found again by their content."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


class BlockPool:
    """Hands out and takes back block numbers 0 to `num_blocks` - 1.

    Any number of requests may hold a block. One that nobody holds is blank, or idle: published
    under the digest of its content, and found by it until the room is needed.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.num_holders = np.zeros(num_blocks, np.int32)
        self._blank = list(range(num_blocks - 1, -1, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._by_digest: dict[bytes, int] = {}
        self._digests: list[bytes | None] = [None] * num_blocks

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds."""
        return len(self._blank) + len(self._idle)

    @property
    def num_used(self) -> int:
        """Blocks that some request holds."""
        return self.num_blocks - self.num_free

    def take(self, count: int) -> NDArray[np.int32]:
        """`count` free blocks, int32 [count], for one holder to write to.

        The caller has seen that there are as many. Blank ones go first, then idle ones in the
        order in which they were given back.
        """
        assert count <= self.num_free, "the scheduler asked for blocks that are not there"
        first = max(len(self._blank) - count, 0)
        blocks = self._blank[first:][::-1]
        del self._blank[first:]
        blocks += [self._evict() for _ in range(count - len(blocks))]
        taken = np.array(blocks, np.int32)
        self.num_holders[taken] = 1
        return taken

    def give_back(self, blocks: NDArray[np.int32]) -> None:
        """One holder of `blocks`, which stand in the order of its tokens, wants them no more."""
        self.num_holders[blocks] -= 1
        held = self.num_holders[blocks]
        assert (held >= 0).all(), "a block came back twice"
        # The last first: what begins a prompt is of use to more requests than what ends it.
        for block in reversed(blocks[held == 0].tolist()):
            if self._digests[block] is None:
                self._blank.append(block)
            else:
                self._idle[block] = None

    def publish(self, block: int, digest: bytes) -> None:
        """Let `block` be found by `digest`, unless another block of that content is."""
        if digest not in self._by_digest:
            self._by_digest[digest] = block
            self._digests[block] = digest

    def find(self, digests: Iterable[bytes]) -> list[int]:
        """The blocks of the first of `digests`, up to the first that is not there."""
        found = []
        for digest in digests:
            block = self._by_digest.get(digest)
            if block is None:
                break
            found.append(block)
        return found

    def hold(self, blocks: list[int]) -> None:
        """Add a holder to `blocks`, found and not taken since."""
        for block in blocks:
            self._idle.pop(block, None)
        self.num_holders[blocks] += 1

    def _evict(self) -> int:
        block, _ = self._idle.popitem(last=False)
        digest = self._digests[block]
        assert digest is not None
        del self._by_digest[digest]
        self._digests[block] = None
        return block
