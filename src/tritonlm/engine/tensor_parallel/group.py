"""The processes that hold the parts of one model, and what they compute together."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import Store  # type: ignore[attr-defined]

BACKENDS = {"cpu": "gloo", "cuda": "nccl"}


@dataclass(frozen=True)
class Group:
    """This process among `size` of them; one that has joined no others computes alone."""

    rank: int
    size: int

    @classmethod
    def of_process(cls) -> Group:
        """The group that this process has joined."""
        if not dist.is_initialized():
            return cls(0, 1)
        return cls(dist.get_rank(), dist.get_world_size())

    def least(self, number: int, device: torch.device) -> int:
        """The least of the numbers that the processes call this with."""
        if self.size == 1:
            return number
        numbers = torch.tensor([number], device=device)
        dist.all_reduce(numbers, dist.ReduceOp.MIN)
        return int(numbers)

    def share(self, values: torch.Tensor) -> None:
        """Give all processes the `values` of the leader, in place."""
        if self.size > 1:
            dist.broadcast(values, 0)


def join(
    store: Store, rank: int, size: int, device: torch.device, timeout_s: float
) -> None:
    """Become number `rank` of `size`; returns once all the others have come.

    Raises RuntimeError if they do not, within `timeout_s`, and if this process is in a group.
    """
    dist.init_process_group(BACKENDS[device.type], store=store, rank=rank, world_size=size,
                            timeout=timedelta(seconds=timeout_s))


def _sum_parts(part: torch.Tensor) -> torch.Tensor:
    total = part.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


def _join_parts(part: torch.Tensor, size: int) -> torch.Tensor:
    parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(size)]
    dist.all_gather(parts, part.contiguous())
    return torch.cat(parts, -1)


# A compiler is not to look into them: it would bind them to the group of this very process.
sum_parts = torch.library.custom_op(
    "tritonlm::sum_parts", _sum_parts, mutates_args=(), schema="(Tensor part) -> Tensor")
"""The sum of what all processes of the group have."""
join_parts = torch.library.custom_op(
    "tritonlm::join_parts", _join_parts, mutates_args=(),
    schema="(Tensor part, int size) -> Tensor")
"""What the `size` processes of the group have, side by side in the last dimension."""


@sum_parts.register_fake
def _(part: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(part, memory_format=torch.contiguous_format)


@join_parts.register_fake
def _(part: torch.Tensor, size: int) -> torch.Tensor:
    return part.new_empty(*part.shape[:-1], part.shape[-1] * size)
