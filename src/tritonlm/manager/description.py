"""What a manager tells of a model."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable

import psutil

from tritonlm.manager.catalogue import Entry
from tritonlm.manager.control import ModelControl, ModelProcess, of_model
from tritonlm.manager.messages import ModelStatus
from tritonlm.manager.resident import Resident, State


async def describe(
    resident: Resident, entry: Entry, control: ModelControl, processes: Iterable[ModelProcess]
) -> ModelStatus:
    """The state of a model whose `entry` is loaded, or would be; `processes` are of any model."""
    now_s = time.monotonic()
    return ModelStatus(
        name=resident.name, task=entry.task, identity=entry.identity,
        versions=tuple(sorted(entry.versions)),
        state=resident.state.value, is_pinned=resident.is_pinned,
        num_leases=len(resident.leases), num_waiting=len(resident.waiting),
        needed_bytes=resident.memory_bytes,
        resident_bytes=sum(_resident_bytes(found.process)
                           for found in of_model(entry, processes)),
        progress=await _progress(resident, entry, control), load_s=resident.load_s,
        idle_s=(None if resident.leases or resident.last_used_s == -math.inf
                else now_s - resident.last_used_s),
        num_loads=resident.num_loads, num_requests=resident.num_requests,
        failure=resident.failure)


async def _progress(resident: Resident, entry: Entry, control: ModelControl) -> str:
    if resident.state != State.LOADING:
        return ""
    names = (*entry.parts, *entry.ensembles)
    num_ready = await control.num_ready(names)
    return f"{num_ready} of {len(names)} parts, {time.monotonic() - resident.changed_s:.0f} s"


def _resident_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
