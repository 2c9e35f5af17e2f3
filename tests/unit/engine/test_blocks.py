"""The pool of blocks by itself."""

from __future__ import annotations

import numpy as np
import pytest

from tritonlm.engine.blocks import BlockPool
from tritonlm.engine.prefix import extend_digests


def digests_of(token_ids, block_size=4):
    digests = []
    extend_digests(digests, np.array(token_ids, np.int32), block_size)
    return digests


def test_a_block_is_free_when_its_last_holder_gives_it_back():
    pool = BlockPool(3)
    blocks = pool.take(2)
    pool.publish(int(blocks[0]), b"a")
    pool.hold(pool.find([b"a"]))
    pool.give_back(blocks)
    assert pool.num_used == 1
    pool.give_back(blocks[:1])
    assert pool.num_used == 0


def test_a_block_that_comes_back_twice_is_found_out():
    pool = BlockPool(2)
    blocks = pool.take(1)
    pool.give_back(blocks)
    with pytest.raises(AssertionError, match="twice"):
        pool.give_back(blocks)


def test_blank_blocks_go_first_then_the_one_given_back_longest_ago():
    pool = BlockPool(4)
    blocks = pool.take(3)
    for block, digest in zip(blocks.tolist(), (b"a", b"b", b"c"), strict=True):
        pool.publish(block, digest)
    for index in (1, 0, 2):
        pool.give_back(blocks[index : index + 1])
    pool.hold(pool.find([b"b"]))
    pool.give_back(blocks[1:2])
    assert pool.take(1).tolist() == [3]
    assert pool.take(3).tolist() == blocks[[0, 2, 1]].tolist()
    assert not any(pool.find([digest]) for digest in (b"a", b"b", b"c"))


def test_a_block_that_is_held_is_not_taken():
    pool = BlockPool(2)
    blocks = pool.take(2)
    pool.publish(int(blocks[0]), b"a")
    pool.give_back(blocks)
    pool.hold(pool.find([b"a"]))
    assert pool.num_free == 1
    assert pool.take(1).tolist() == [blocks[1]]


def test_content_that_is_there_twice_is_found_once():
    pool = BlockPool(2)
    first, second = pool.take(2).tolist()
    pool.publish(first, b"a")
    pool.publish(second, b"a")
    assert pool.find([b"a"]) == [first]
    pool.give_back(np.array([second], np.int32))
    assert pool.find([b"a"]) == [first]


def test_a_digest_stands_for_all_tokens_up_to_the_end_of_its_block():
    assert len(digests_of(range(11))) == 2
    assert digests_of(range(8)) == digests_of(range(11))
    assert digests_of([1, 2, 3, 4, 9, 9, 9, 9])[1] != digests_of([1, 2, 3, 5, 9, 9, 9, 9])[1]
    assert digests_of([1, 2, 3, 4])[0] != digests_of([1, 2, 3, 4 + 256])[0]


def test_digests_can_be_found_out_bit_by_bit():
    tokens = np.arange(20, dtype=np.int32)
    digests = []
    for end in (3, 4, 11, 20):
        extend_digests(digests, tokens[:end], 4)
    assert digests == digests_of(tokens)
