"""Prompts that begin alike: the names of their blocks, and who is computing them right now."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from tritonlm.engine.request import Request

DIGEST_BYTES = 16


def digest_of(content: bytes, parent: bytes) -> bytes:
    """The name of a block: hash of the name of the block before it, if any, and its token ids.

    So it stands for all tokens up to its end. It is a cryptographic hash of 128 bits: nobody can
    make a prompt that is taken for another, and the ids themselves need not be compared.
    """
    return blake2b(parent + content, digest_size=DIGEST_BYTES).digest()


def extend_digests(digests: list[bytes], token_ids: NDArray[np.int32], block_size: int) -> None:
    """Append to `digests` those of the further full blocks of `token_ids`."""
    width = block_size * token_ids.itemsize
    num_full = token_ids.size // block_size
    data = token_ids[len(digests) * block_size : num_full * block_size].tobytes()
    for start in range(0, len(data), width):
        digests.append(digest_of(data[start : start + width], digests[-1] if digests else b""))


class Prefills:
    """Blocks that are being computed, so that nobody else computes them at the same time."""

    def __init__(self) -> None:
        self._leaders: dict[bytes, Request] = {}
        self._followers: dict[bytes, list[Request]] = {}

    def begin(self, request: Request, num_found: int) -> None:
        """`request` computes its blocks from number `num_found` on."""
        for digest in request.digests[num_found:]:
            leader = self._leaders.get(digest)
            if leader is None or leader.priority > request.priority:
                self._leaders[digest] = request

    def follow(self, request: Request, num_found: int, num_useful: int) -> bool:
        """Whether `request` had better wait for its blocks from number `num_found` on.

        Then it is handed out when the last block that others compute for it is there. It never
        waits for a lower class, whose turn may be far off.
        """
        last = None
        for digest in request.digests[num_found:num_useful]:
            leader = self._leaders.get(digest)
            if leader is None or leader.priority > request.priority:
                break
            last = digest
        if last is None:
            return False
        self._followers.setdefault(last, []).append(request)
        return True

    def settle(self, digest: bytes) -> list[Request]:
        """A block is there, or comes no more; the requests that have waited for it."""
        if self._leaders.pop(digest, None) is None:
            return []
        return self._followers.pop(digest, [])

    def abandon(self, request: Request, num_published: int) -> list[Request]:
        """`request` computes no more; the requests that have waited for its blocks."""
        return [follower for digest in request.digests[num_published:]
                if self._leaders.get(digest) is request for follower in self.settle(digest)]
