"""How many cores this process may keep busy."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

OWN_GROUP = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")
UNIFIED = "0::/"
"""Stands before the process's control group in the hierarchy of version 2."""


def num_usable_cores() -> int:
    """Cores that it may run on, or whole ones that the CPU quota of a container pays for."""
    return max(1, int(min([len(os.sched_getaffinity(0)), *_quotas()])))


def _quotas() -> Iterator[float]:
    """In cores, of the process's control group and those that it is in (version 2)."""
    try:
        lines = OWN_GROUP.read_text().splitlines()
    except OSError:
        return
    for path in (line.removeprefix(UNIFIED) for line in lines if line.startswith(UNIFIED)):
        for folder in (GROUPS / path, *(GROUPS / path).parents):
            try:
                quota_us, period_us = (folder / "cpu.max").read_text().split()
            except OSError:  # the root has none, and a container does not see those above its own
                continue
            if quota_us != "max":
                yield int(quota_us) / int(period_us)
