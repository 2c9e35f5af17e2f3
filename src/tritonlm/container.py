"""What of the machine this process may use: all, or what its control groups (version 2) allow."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil

OWN_GROUP = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")
UNIFIED = "0::/"
"""Stands before the process's control group in the hierarchy of version 2."""
UNLIMITED = "max"


def num_usable_cores() -> int:
    """Cores that it may run on, or whole ones that its CPU quota pays for; at least 1."""
    quotas = (int(quota_us) / int(period_us) for quota_us, period_us in _limits("cpu.max"))
    return max(1, int(min([len(os.sched_getaffinity(0)), *quotas])))


def usable_memory_bytes() -> int:
    """Memory of the machine, or of the container; whether it is in use or not."""
    return min([psutil.virtual_memory().total, *(int(limit) for limit, in _limits("memory.max"))])


def _limits(name: str) -> Iterator[list[str]]:
    """What the files of that name say, of the process's group and those that it is in."""
    try:
        lines = OWN_GROUP.read_text().splitlines()
    except OSError:
        return
    for path in (line.removeprefix(UNIFIED) for line in lines if line.startswith(UNIFIED)):
        for folder in (GROUPS / path, *(GROUPS / path).parents):
            try:
                values = (folder / name).read_text().split()
            except OSError:  # the root has none, and a container does not see those above its own
                continue
            if values[0] != UNLIMITED:
                yield values
