"""The sampler on a GPU: what `sampler.sample` draws, in one kernel and without sorting.

In falling order of the logits, top-k, top-p and min-p each keep a beginning of the vocabulary; the
shortest of them counts. So the mass of that beginning is all that has to be known of it, and a
place in the order is found by halving the range of logits. Equal logits, which are many in 16
bits, are counted, and stand in the order of their ids.
"""
# Kernels are not Python: their arguments have no types that it knows.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from tritonlm.engine.sampler import GOLDEN_GAMMA, MIX_1, MIX_2, UNIFORM_BITS
from tritonlm.engine.sampling_columns import NUM_DRAW_WORDS

KEY_BITS = {torch.bfloat16: 16, torch.float16: 19, torch.float32: 32}
"""How many of the first bits of a number, as float32, say all of it."""
MOST_IDS = 16384
"""Logits that a program works on at once."""
LOG2_E = tl.constexpr(1.4426950408889634)
UNSIGNED_64 = 2**64
GAMMA = tl.constexpr(GOLDEN_GAMMA % UNSIGNED_64)
FIRST_MIX = tl.constexpr(MIX_1 % UNSIGNED_64)
SECOND_MIX = tl.constexpr(MIX_2 % UNSIGNED_64)
SHIFT = tl.constexpr(64 - UNIFORM_BITS)
UNIFORM_UNIT = tl.constexpr(2.0**-UNIFORM_BITS)


@dataclass(frozen=True)
class DrawOptions:
    """Options of n rows, int32 on the device; read when the kernel runs."""

    words: torch.Tensor
    """`SamplingColumns.draw_words` of the rows, [n, `NUM_DRAW_WORDS`], contiguous."""
    positions: torch.Tensor
    """Numbers of the tokens in their requests, [n]."""


def draw(logits: torch.Tensor, options: DrawOptions) -> torch.Tensor:
    """A token for each row of `logits`, [n, V], int64 [n]."""
    num_rows, vocab_size = logits.shape
    tokens = torch.empty(num_rows, dtype=torch.int64, device=logits.device)
    num_ids = min(int(triton.next_power_of_2(vocab_size)), MOST_IDS)
    _draw[(num_rows,)](
        tokens, logits, options.words, options.positions, vocab_size, logits.stride(0),
        WORDS=NUM_DRAW_WORDS, BITS=KEY_BITS[logits.dtype], IDS=num_ids,
        num_warps=max(num_ids // 1024, 1),
    )
    return tokens


@triton.jit
def _draw(
    tokens_ptr, logits_ptr, words_ptr, positions_ptr, vocab_size, row_stride,
    WORDS: tl.constexpr, BITS: tl.constexpr, IDS: tl.constexpr,
):
    """One row."""
    row = tl.program_id(0)
    logits_ptr += row.to(tl.int64) * row_stride
    words_ptr += row * WORDS
    temperature = _load_float(words_ptr)
    top, token = _find_top(logits_ptr, vocab_size, IDS)
    if temperature > 0:
        unit = LOG2_E / temperature
        top_p, min_p, top_k = (_load_float(words_ptr + 1), _load_float(words_ptr + 2),
                               tl.load(words_ptr + 3))
        mass = _kept_mass(logits_ptr, vocab_size, top, unit, top_k, top_p, min_p, BITS, IDS)
        share = _uniform(tl.load(words_ptr + 4), tl.load(words_ptr + 5),
                         tl.load(positions_ptr + row))
        token = _find_token(logits_ptr, vocab_size, top, unit, share * mass, mass, BITS, IDS)
    tl.store(tokens_ptr + row, token.to(tl.int64))


@triton.jit
def _load_float(ptr):
    return tl.load(ptr).to(tl.float32, bitcast=True)


@triton.jit
def _find_top(logits_ptr, vocab_size, IDS: tl.constexpr):
    """The highest logit, and the first id that has it."""
    lanes = tl.arange(0, IDS)
    best = tl.full((IDS,), float("-inf"), tl.float32)
    ids = lanes
    for start in range(0, vocab_size, IDS):
        logits = _load(logits_ptr, start, vocab_size, IDS)
        is_better = logits > best
        best = tl.where(is_better, logits, best)
        ids = tl.where(is_better, start + lanes, ids)
    top = tl.max(best, 0)
    return top, tl.min(tl.where(best == top, ids, vocab_size - 1), 0)


@triton.jit
def _kept_mass(
    logits_ptr, vocab_size, top, unit, top_k, top_p, min_p, BITS: tl.constexpr, IDS: tl.constexpr,
):
    """Mass of the tokens that the options keep; the most likely one has mass 1."""
    mass = _mass(logits_ptr, vocab_size, top, unit, 0.0, IDS)
    if (top_k > 0) & (top_k < vocab_size):
        last = _find_key(logits_ptr, vocab_size, top, unit, top_k - 0.5, True, BITS, IDS)
        before, num_before, own, _ = _measure(logits_ptr, vocab_size, top, unit, last, BITS, IDS)
        mass = before + (top_k - num_before) * own
    if top_p < 1:
        wanted = mass * top_p
        last = _find_key(logits_ptr, vocab_size, top, unit, wanted, False, BITS, IDS)
        before, _, own, _ = _measure(logits_ptr, vocab_size, top, unit, last, BITS, IDS)
        mass = tl.minimum(mass, before + tl.maximum(tl.ceil((wanted - before) / own), 1.0) * own)
    if min_p > 0:
        mass = tl.minimum(mass, _mass(logits_ptr, vocab_size, top, unit, min_p, IDS))
    return mass


@triton.jit
def _find_token(
    logits_ptr, vocab_size, top, unit, target, mass, BITS: tl.constexpr, IDS: tl.constexpr,
):
    """The token with which the mass of all up to it exceeds `target`, which is below `mass`."""
    key = _find_key(logits_ptr, vocab_size, top, unit, target, False, BITS, IDS)
    before, _, own, num_equal = _measure(logits_ptr, vocab_size, top, unit, key, BITS, IDS)
    num_kept = tl.minimum(num_equal, tl.floor((mass - before) / own + 0.5))
    place = tl.minimum(tl.floor((target - before) / own), num_kept - 1)
    wanted = tl.maximum(place, 0.0).to(tl.int32) + 1
    token, num_seen = 0, 0
    for start in range(0, vocab_size, IDS):
        logits = _load(logits_ptr, start, vocab_size, IDS)
        ids = start + tl.arange(0, IDS)
        is_equal = ((_keys(logits, BITS) == key) & (ids < vocab_size)).to(tl.int32)
        is_it = (tl.cumsum(is_equal, 0) + num_seen == wanted) & (is_equal == 1)
        token += tl.sum(tl.where(is_it, ids, 0), 0)
        num_seen += tl.sum(is_equal, 0)
    return token


@triton.jit
def _find_key(
    logits_ptr, vocab_size, top, unit, target, COUNTS: tl.constexpr, BITS: tl.constexpr,
    IDS: tl.constexpr,
):
    """The highest key for which all at or above it have more than `target` mass, or number."""
    key = tl.full((), -(2 ** (BITS - 1)), tl.int64)
    step = tl.full((), 2 ** (BITS - 1), tl.int64)
    for _ in range(BITS):
        tried = key + step
        total = tl.zeros((IDS,), tl.float32)
        for start in range(0, vocab_size, IDS):
            logits = _load(logits_ptr, start, vocab_size, IDS)
            amount = tl.exp2((logits - top) * unit)
            if COUNTS:
                amount = (start + tl.arange(0, IDS) < vocab_size).to(tl.float32)
            total += tl.where(_keys(logits, BITS) >= tried.to(tl.int32), amount, 0.0)
        key = tl.where(tl.sum(total.to(tl.float64), 0) > target, tried, key)
        step = step >> 1
    return key.to(tl.int32)


@triton.jit
def _measure(
    logits_ptr, vocab_size, top, unit, key, BITS: tl.constexpr, IDS: tl.constexpr,
):
    """Mass and number of the tokens above `key`; mass of one that has it, and their number."""
    before = tl.zeros((IDS,), tl.float32)
    num_before = tl.zeros((IDS,), tl.float32)
    own = tl.zeros((IDS,), tl.float32)
    num_equal = tl.zeros((IDS,), tl.float32)
    for start in range(0, vocab_size, IDS):
        logits = _load(logits_ptr, start, vocab_size, IDS)
        mass, keys = tl.exp2((logits - top) * unit), _keys(logits, BITS)
        before += tl.where(keys > key, mass, 0.0)
        num_before += tl.where(keys > key, 1.0, 0.0)
        is_equal = (keys == key) & (start + tl.arange(0, IDS) < vocab_size)
        own = tl.maximum(own, tl.where(is_equal, mass, 0.0))
        num_equal += tl.where(is_equal, 1.0, 0.0)
    return (tl.sum(before.to(tl.float64), 0), tl.sum(num_before, 0),
            tl.max(own, 0).to(tl.float64), tl.sum(num_equal, 0))


@triton.jit
def _mass(logits_ptr, vocab_size, top, unit, least, IDS: tl.constexpr):
    """Mass of all tokens that have `least` each."""
    total = tl.zeros((IDS,), tl.float32)
    for start in range(0, vocab_size, IDS):
        mass = tl.exp2((_load(logits_ptr, start, vocab_size, IDS) - top) * unit)
        total += tl.where(mass >= least, mass, 0.0)
    return tl.sum(total.to(tl.float64), 0)


@triton.jit
def _load(logits_ptr, start, vocab_size, IDS: tl.constexpr):
    ids = start + tl.arange(0, IDS)
    return tl.load(logits_ptr + ids, mask=ids < vocab_size, other=float("-inf")).to(tl.float32)


@triton.jit
def _keys(logits, BITS: tl.constexpr):
    """Integers of `BITS` bits in the order of `logits`, which are no more precise than that."""
    bits = logits.to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)) >> (32 - BITS)


@triton.jit
def _uniform(seed_low, seed_high, position):
    """What `sampler.uniform` makes of a seed, in two halves, and a position."""
    low = seed_low.to(tl.uint32, bitcast=True).to(tl.uint64)
    high = seed_high.to(tl.uint32, bitcast=True).to(tl.uint64)
    bits = _mix(_mix((high << 32) + low + GAMMA) + position.to(tl.uint64) * GAMMA)
    return (bits >> SHIFT).to(tl.float64) * UNIFORM_UNIT


@triton.jit
def _mix(bits):
    bits = (bits ^ (bits >> 30)) * FIRST_MIX
    bits = (bits ^ (bits >> 27)) * SECOND_MIX
    return bits ^ (bits >> 31)
