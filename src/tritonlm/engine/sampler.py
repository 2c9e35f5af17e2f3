"""From logits to tokens, a row each; what a row gets does not depend on the other rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tritonlm.engine.table import RequestTable, Rows

UNIFORM_BITS = 53
GOLDEN_GAMMA = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64
MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


@dataclass(frozen=True)
class SamplingRows:
    """The sampling options of m rows, tensors [m] on the device of the logits."""

    temperature: torch.Tensor
    top_p: torch.Tensor
    top_k: torch.Tensor
    min_p: torch.Tensor
    typical_p: torch.Tensor
    seed: torch.Tensor
    """int64, the bits of the request's unsigned seed."""
    position: torch.Tensor
    """Number of the token in its request, int64."""
    is_typical: bool
    """Whether any row's `typical_p` is below 1."""

    @classmethod
    def of(cls, table: RequestTable, rows: Rows, device: torch.device) -> SamplingRows:
        """The options of `rows` of the table."""
        def column(values: NDArray[Any]) -> torch.Tensor:
            host = torch.from_numpy(values[rows])
            # From other memory a copy waits for all that the device has to do before it.
            host = host.pin_memory() if device.type == "cuda" else host
            return host.to(device, non_blocking=True)

        options = table.sampling
        return cls(
            temperature=column(options.temperature),
            top_p=column(options.top_p),
            top_k=column(options.top_k).long(),
            min_p=column(options.min_p),
            typical_p=column(options.typical_p),
            seed=column(options.seed.view(np.int64)),
            position=column(table.num_tokens).long(),
            is_typical=bool((options.typical_p[rows] < 1).any()),
        )


def sample(logits: torch.Tensor, options: SamplingRows) -> torch.Tensor:
    """A token for each row of `logits`, float32 [m, V]; int64 [m].

    Temperature, top-k, top-p, min-p and typical-p act one after the other, as in
    `transformers.generate`; then the inverse of the cumulative distribution is read at one
    uniform number, which follows from the request's seed and the token's number alone.
    """
    greedy = logits.argmax(dim=-1)
    is_greedy = options.temperature == 0
    temperature = torch.where(is_greedy, 1.0, options.temperature)
    below = logits - logits.amax(dim=-1, keepdim=True)  # no temperature makes its top infinite
    ordered, token_ids = (below / temperature[:, None]).sort(dim=-1, descending=True, stable=True)
    probs = _kept(ordered, options)
    mass = probs.cumsum(dim=-1)
    target = uniform(options.seed, options.position) * mass[:, -1]
    last_kept = (mass < mass[:, -1:]).sum(dim=-1)
    rank = (mass <= target[:, None]).sum(dim=-1).minimum(last_kept)
    return torch.where(is_greedy, greedy, token_ids.gather(1, rank[:, None]).squeeze(1))


def _kept(ordered: torch.Tensor, options: SamplingRows) -> torch.Tensor:
    """Probabilities in falling order with those that the options exclude at 0, float64 [m, V]."""
    rank = torch.arange(ordered.shape[-1], device=ordered.device)
    top_k = torch.where(options.top_k > 0, options.top_k, ordered.shape[-1])
    ordered = ordered.masked_fill(rank >= top_k[:, None], -torch.inf)
    probs = ordered.double().softmax(dim=-1)
    mass_before = probs.cumsum(dim=-1) - probs
    is_out = mass_before >= options.top_p[:, None]
    is_out |= probs < options.min_p[:, None] * probs[:, :1]
    is_out[:, 0] = False
    probs = probs.masked_fill(is_out, 0.0)
    return _typical(probs, options.typical_p) if options.is_typical else probs


def _typical(probs: torch.Tensor, typical_p: torch.Tensor) -> torch.Tensor:
    """`probs`, [m, V], with only those kept whose information is nearest to the average one.

    They are the fewest that make up `typical_p` of a row (Meister et al. 2022), and all that are
    as near as the last of them.
    """
    shares = probs / probs.sum(dim=-1, keepdim=True)
    information = -shares.log()
    entropy = (shares * information).nansum(dim=-1, keepdim=True)
    distance, order = (information - entropy).abs().sort(dim=-1, stable=True)
    mass = shares.gather(1, order).cumsum(dim=-1)
    last = (mass < typical_p[:, None]).sum(dim=-1, keepdim=True).clamp(max=probs.shape[-1] - 1)
    is_out = (information - entropy).abs() > distance.gather(1, last)
    return torch.where(is_out & (typical_p[:, None] < 1), 0.0, probs)


def uniform(seed: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """Numbers in [0, 1), float64, from two int64 tensors: SplitMix64 (Steele, Lea, Flood 2014)."""
    bits = _mix(_mix(seed + GOLDEN_GAMMA) + position * GOLDEN_GAMMA)
    return _shift_right(bits, 64 - UNIFORM_BITS).double() * 2.0**-UNIFORM_BITS


def _mix(bits: torch.Tensor) -> torch.Tensor:
    bits = (bits ^ _shift_right(bits, 30)) * MIX_1
    bits = (bits ^ _shift_right(bits, 27)) * MIX_2
    return bits ^ _shift_right(bits, 31)


def _shift_right(bits: torch.Tensor, count: int) -> torch.Tensor:
    """Shift that brings in zeros, which `>>` of a signed number does not."""
    return (bits >> count) & ((1 << (64 - count)) - 1)
