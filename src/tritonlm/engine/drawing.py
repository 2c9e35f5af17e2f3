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

KEY_BITS = {torch.bfloat16: 16, torch.float16: 20, torch.float32: 32}
"""How many of the first bits of a number, as float32, say all of it; or one more, to be even."""
MOST_IDS = 8192
"""Logits that a program works on at once."""
IDS_PER_WARP = 512
LEAST_TEMPERATURE = tl.constexpr(1e-30)
"""The quotient by a lower one would be infinite."""
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

    rows: torch.Tensor
    """Where the tokens are kept, [n]."""
    words: torch.Tensor
    """`SamplingColumns.draw_words` of the rows, [n, `NUM_DRAW_WORDS`], contiguous."""
    positions: torch.Tensor
    """Numbers of the tokens in their requests, [n]."""


def draw(logits: torch.Tensor, options: DrawOptions, last_token: torch.Tensor) -> torch.Tensor:
    """A token for each row of `logits`, [n, V], int32 [n].

    They become those of `options.rows` in `last_token`, int32 [at least the highest row + 1].
    """
    num_rows, vocab_size = logits.shape
    tokens = torch.empty(num_rows, dtype=torch.int32, device=logits.device)
    num_ids = min(int(triton.next_power_of_2(vocab_size)), MOST_IDS)
    _draw[(num_rows,)](
        tokens, last_token, logits, options.rows, options.words, options.positions, vocab_size,
        logits.stride(0), WORDS=NUM_DRAW_WORDS, BITS=KEY_BITS[logits.dtype], IDS=num_ids,
        num_warps=max(num_ids // IDS_PER_WARP, 1),
    )
    return tokens


@triton.jit
def _draw(
    tokens_ptr, last_token_ptr, logits_ptr, rows_ptr, words_ptr, positions_ptr, vocab_size,
    row_stride, WORDS: tl.constexpr, BITS: tl.constexpr, IDS: tl.constexpr,
):
    """One row."""
    row = tl.program_id(0)
    logits_ptr += row.to(tl.int64) * row_stride
    words_ptr += row * WORDS
    temperature = _load_float(words_ptr)
    top, token = _find_top(logits_ptr, vocab_size, IDS)
    if temperature > 0:
        unit = LOG2_E / tl.maximum(temperature, LEAST_TEMPERATURE)
        top_p, min_p, top_k = (_load_float(words_ptr + 1), _load_float(words_ptr + 2),
                               tl.load(words_ptr + 3))
        mass = _kept_mass(logits_ptr, vocab_size, top, unit, top_k, top_p, min_p, BITS, IDS)
        share = _uniform(tl.load(words_ptr + 4), tl.load(words_ptr + 5),
                         tl.load(positions_ptr + row))
        token = _find_token(logits_ptr, vocab_size, top, unit, share * mass, mass, BITS, IDS)
    tl.store(tokens_ptr + row, token)
    tl.store(last_token_ptr + tl.load(rows_ptr + row), token)


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
        last = _find_logit(logits_ptr, vocab_size, top, unit, top_k - 0.5, True, BITS, IDS)
        before, num_before, own, _ = _measure(logits_ptr, vocab_size, top, unit, last, IDS)
        mass = before + (top_k - num_before) * own
    if top_p < 1:
        wanted = mass * top_p
        last = _find_logit(logits_ptr, vocab_size, top, unit, wanted, False, BITS, IDS)
        before, _, own, _ = _measure(logits_ptr, vocab_size, top, unit, last, IDS)
        mass = tl.minimum(mass, before + tl.maximum(tl.ceil((wanted - before) / own), 1.0) * own)
    if min_p > 0:
        mass = tl.minimum(mass, _mass(logits_ptr, vocab_size, top, unit, min_p, IDS))
    return mass


@triton.jit
def _find_token(
    logits_ptr, vocab_size, top, unit, target, mass, BITS: tl.constexpr, IDS: tl.constexpr,
):
    """The token with which the mass of all up to it exceeds `target`, which is below `mass`."""
    logit = _find_logit(logits_ptr, vocab_size, top, unit, target, False, BITS, IDS)
    before, _, own, num_equal = _measure(logits_ptr, vocab_size, top, unit, logit, IDS)
    num_kept = tl.minimum(num_equal, tl.floor((mass - before) / own + 0.5))
    place = tl.minimum(tl.floor((target - before) / own), num_kept - 1)
    wanted = tl.maximum(place, 0.0).to(tl.int32) + 1
    token, num_seen = 0, 0
    for start in range(0, vocab_size, IDS):
        ids = start + tl.arange(0, IDS)
        is_equal = (_load(logits_ptr, start, vocab_size, IDS) == logit) & (ids < vocab_size)
        is_it = (tl.cumsum(is_equal.to(tl.int32), 0) + num_seen == wanted) & is_equal
        token += tl.sum(tl.where(is_it, ids, 0), 0)
        num_seen += tl.sum(is_equal.to(tl.int32), 0)
    return token


@triton.jit
def _find_logit(
    logits_ptr, vocab_size, top, unit, target, COUNTS: tl.constexpr, BITS: tl.constexpr,
    IDS: tl.constexpr,
):
    """The highest logit for which all that are no lower have more than `target` mass, or number.

    Each pass over the logits finds two more of the bits by which they are ordered.
    """
    key = tl.full((), -(2 ** (BITS - 1)), tl.int64)
    step = tl.full((), 2 ** (BITS - 2), tl.int64)
    for _ in range(BITS // 2):
        bound_1, bound_2, bound_3 = (_lowest(key + step, BITS), _lowest(key + 2 * step, BITS),
                                     _lowest(key + 3 * step, BITS))
        total_1 = tl.zeros((IDS,), tl.float32)
        total_2 = tl.zeros((IDS,), tl.float32)
        total_3 = tl.zeros((IDS,), tl.float32)
        for start in range(0, vocab_size, IDS):
            logits = _load(logits_ptr, start, vocab_size, IDS)
            amount = tl.exp2((logits - top) * unit)
            if COUNTS:
                amount = (start + tl.arange(0, IDS) < vocab_size).to(tl.float32)
            # A bound below all numbers is none, and then nothing is below it.
            total_1 += tl.where(logits < bound_1, 0.0, amount)
            total_2 += tl.where(logits < bound_2, 0.0, amount)
            total_3 += tl.where(logits < bound_3, 0.0, amount)
        key += step * (_exceeds(total_1, target) + _exceeds(total_2, target)
                       + _exceeds(total_3, target))
        step = step >> 2
    # The lowest number of a negative key has other last bits than a logit.
    bits = _ordered(key, BITS) | tl.where(key < 0, (1 << (32 - BITS)) - 1, 0)
    return _number(bits)


@triton.jit
def _exceeds(total, target):
    return (tl.sum(total.to(tl.float64), 0) > target).to(tl.int64)


@triton.jit
def _lowest(key, BITS: tl.constexpr):
    """The lowest number, float32, whose first bits in order are `key`."""
    return _number(_ordered(key, BITS))


@triton.jit
def _ordered(key, BITS: tl.constexpr):
    return (key << (32 - BITS)).to(tl.int32)


@triton.jit
def _number(ordered):
    """What stands at `ordered` if all float32 are numbered in their order, int32."""
    return (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _measure(logits_ptr, vocab_size, top, unit, logit, IDS: tl.constexpr):
    """Mass and number of the tokens above `logit`; mass of one that has it, and their number."""
    before = tl.zeros((IDS,), tl.float32)
    num_before = tl.zeros((IDS,), tl.float32)
    num_equal = tl.zeros((IDS,), tl.float32)
    for start in range(0, vocab_size, IDS):
        logits = _load(logits_ptr, start, vocab_size, IDS)
        before += tl.where(logits > logit, tl.exp2((logits - top) * unit), 0.0)
        num_before += tl.where(logits > logit, 1.0, 0.0)
        is_equal = (logits == logit) & (start + tl.arange(0, IDS) < vocab_size)
        num_equal += tl.where(is_equal, 1.0, 0.0)
    own = tl.exp2((logit - top) * unit).to(tl.float64)
    return tl.sum(before.to(tl.float64), 0), tl.sum(num_before, 0), own, tl.sum(num_equal, 0)


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
