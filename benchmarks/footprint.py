"""Memory in use, and whether it grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import psutil
import torch

MIB = 2**20
MAX_GROWTH_MIB = 0.5
"""For every 1,000 requests of the second half: some 500 bytes of each."""


@dataclass(frozen=True)
class Footprint:
    """Memory after `num_requests` requests."""

    num_requests: int
    host_mib: float
    """Resident memory of the process."""
    device_mib: float
    """Memory of the device that is in use, whoever uses it; 0 on a CPU."""

    @classmethod
    def now(cls, num_requests: int, device: torch.device) -> Footprint:
        """As it is at this moment."""
        used = 0
        if device.type == "cuda":
            num_free, total = torch.cuda.mem_get_info(device)
            used = total - num_free
        return cls(num_requests, psutil.Process().memory_info().rss / MIB, used / MIB)


@dataclass(frozen=True)
class Growth:
    """MiB for 1,000 requests of the second half."""

    host_mib: float
    device_mib: float

    @classmethod
    def of(cls, footprints: Sequence[Footprint]) -> Growth:
        """The slopes of the lines that fit the second half of `footprints` best."""
        half = footprints[len(footprints) // 2 :]
        thousands = np.array([footprint.num_requests for footprint in half]) / 1000
        host, device = (np.polyfit(thousands, values, 1)[0] for values in (
            [footprint.host_mib for footprint in half],
            [footprint.device_mib for footprint in half]))
        return cls(float(host), float(device))

    @property
    def is_leak(self) -> bool:
        """Whether it is more than the bound."""
        return max(self.host_mib, self.device_mib) > MAX_GROWTH_MIB
