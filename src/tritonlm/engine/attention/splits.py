"""Contexts cut into splits of equal work, found on the device from the context lengths.

So one captured launch suits any lengths. All layers of a step that are cut alike share the splits.
"""
# Kernels are not Python: their arguments have no types that it knows.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

SPLIT_WORDS = tl.constexpr(4)


@dataclass(frozen=True)
class Cut:
    """How contexts are cut; any values give the same results."""

    tile: int
    """Keys that a program works on at once."""
    window: int
    """Most keys of a request that count; 0 for all."""
    num_spare: int
    """Splits that there may be beside the first of each request."""


def find_splits(context_lens: torch.Tensor, cut: Cut) -> torch.Tensor:
    """The splits of contexts of `context_lens`, int32 [B], in any number of layers.

    Returns int32 [B + num_spare, 4]: a split's request, the keys of that one's context, its
    number of splits, and which of them this is. The request is B where there is no such split.
    An empty context has a split too.
    """
    splits: torch.Tensor = _find_splits(context_lens, cut.tile, cut.window, cut.num_spare)
    return splits


@torch.library.custom_op("tritonlm::find_splits", mutates_args=())
def _find_splits(
    context_lens: torch.Tensor, tile: int, window: int, num_spare: int,
) -> torch.Tensor:
    num_requests = context_lens.shape[0]
    splits = context_lens.new_empty(num_requests + num_spare, SPLIT_WORDS.value)
    _find[(splits.shape[0],)](splits, context_lens, num_requests, num_spare, WINDOW=window,
                              TILE=tile, REQUESTS=_request_places(num_requests))
    return splits


@_find_splits.register_fake
def _(context_lens: torch.Tensor, tile: int, window: int, num_spare: int) -> torch.Tensor:
    return context_lens.new_empty(context_lens.shape[0] + num_spare, SPLIT_WORDS.value)


def _request_places(num_requests: int) -> int:
    """A few powers of two, so that few kernels are compiled for all batch sizes."""
    return next((places for places in (32, 256) if num_requests <= places),
                triton.next_power_of_2(num_requests))


@triton.jit(do_not_specialize=["num_requests", "num_spare"])
def _find(
    splits_ptr, context_lens_ptr, num_requests, num_spare,
    WINDOW: tl.constexpr, TILE: tl.constexpr, REQUESTS: tl.constexpr,
):
    """What is at one place among all splits."""
    place = tl.program_id(0)
    requests = tl.arange(0, REQUESTS)
    is_request = requests < num_requests
    num_keys = tl.load(context_lens_ptr + requests, mask=is_request, other=0)
    num_tiles = tl.cdiv(num_keys, TILE)
    if WINDOW > 0:
        num_tiles -= tl.maximum(num_keys - WINDOW, 0) // TILE
    num_tiles = tl.where(is_request, tl.maximum(num_tiles, 1), 0)
    num_splits = tl.cdiv(num_tiles, tl.cdiv(tl.sum(num_tiles), num_spare))
    ends = tl.cumsum(num_splits)
    is_before = ends <= place
    request = tl.minimum(tl.sum(is_before.to(tl.int32)), num_requests)
    is_mine = requests == request
    splits_ptr += place * SPLIT_WORDS
    tl.store(splits_ptr, request)
    tl.store(splits_ptr + 1, tl.sum(tl.where(is_mine, num_keys, 0)))
    tl.store(splits_ptr + 2, tl.sum(tl.where(is_mine, num_splits, 0)))
    tl.store(splits_ptr + 3, place - tl.max(tl.where(is_before, ends, 0)))


@triton.jit
def load_split(splits_ptr, place):
    """A split's request, keys of the context, number of splits, and which it is."""
    splits_ptr += place * SPLIT_WORDS
    return (tl.load(splits_ptr), tl.load(splits_ptr + 1), tl.load(splits_ptr + 2),
            tl.load(splits_ptr + 3))
