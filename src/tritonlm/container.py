"""What of the machine this process may use: all, or what its control groups allow."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil

OWN_GROUP = Path("/proc/self/cgroup")
"""Lines of number, controllers and group; in version 2 of control groups one without names."""
GROUPS = Path("/sys/fs/cgroup")
UNLIMITED = ("max", "-1")
CPU_QUOTA = ("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")
"""Files with microseconds of CPU and of time: in version 2, and in version 1."""
MEMORY_LIMIT = ("memory.max",), ("memory.limit_in_bytes",)


def num_usable_cores() -> int:
    """Cores that it may run on, or whole ones that its CPU quota pays for; at least 1."""
    quotas = (quota_us / period_us for quota_us, period_us in _limits("cpu", *CPU_QUOTA))
    return max(1, int(min([len(os.sched_getaffinity(0)), *quotas])))


def usable_memory_bytes() -> int:
    """Memory of the machine, or of the container; whether it is in use or not."""
    limits = (limit for limit, in _limits("memory", *MEMORY_LIMIT))
    return min([psutil.virtual_memory().total, *limits])


def _limits(controller: str, *versions: tuple[str, ...]) -> Iterator[list[int]]:
    """What the files of those names say, in each group that has a limit."""
    for group in _groups(controller):
        for names in versions:
            values = [value for name in names for value in _read(group / name).split()]
            if values and values[0] not in UNLIMITED:
                yield [int(value) for value in values]


def _groups(controller: str) -> Iterator[Path]:
    """Folders of the process's own group, and of those that it is in."""
    for line in _read(OWN_GROUP).splitlines():
        _, controllers, group = line.split(":", 2)
        root = GROUPS / controller if controllers else GROUPS
        if not controllers or controller in controllers.split(","):
            folder = root / group.lstrip("/")
            yield from (folder, *folder.parents)


def _read(file: Path) -> str:
    """Its text, if it is there: the root has no limits, a container sees none above its own."""
    try:
        return file.read_text()
    except OSError:
        return ""
