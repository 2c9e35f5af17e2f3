"""What an engine's process and its GPU are using, looked at by a thread of its own."""

from __future__ import annotations

import threading

import pynvml  # type: ignore[import-untyped]
import torch

from tritonlm.engine.messages import Resources
from tritonlm.process_memory import resident_bytes

INTERVAL_S = 2.0


class ResourceWatch:
    """Measures now and then: what the driver takes its time for delays no step."""

    def __init__(self) -> None:
        self.latest = measure()
        threading.Thread(target=self._run, name="resource watch", daemon=True).start()

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            pause.wait(INTERVAL_S)
            self.latest = measure()


def measure() -> Resources:
    """What is in use now; of a GPU only where this process has one."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return Resources(resident_bytes())
    try:
        num_free, num_bytes = torch.cuda.mem_get_info()
        return Resources(resident_bytes(), num_bytes - num_free, num_bytes, _gpu_usage())
    except RuntimeError:  # the device is lost, which the engine itself will see
        return Resources(resident_bytes())


def _gpu_usage() -> float | None:
    """Share of the driver's last period in which the GPU computed; None if it does not tell."""
    try:
        return torch.cuda.utilization() / 100
    except pynvml.NVMLError:
        return None
