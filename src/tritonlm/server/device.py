"""The device that models compute on: asked of the system and the driver, without torch."""

from __future__ import annotations

import pynvml  # type: ignore[import-untyped]

from tritonlm.container import usable_memory_bytes


def choose_device(setting: str) -> str:
    """cpu or cuda: what a setting means on this machine."""
    if setting != "auto":
        return setting
    try:
        pynvml.nvmlInit()
        return "cuda" if pynvml.nvmlDeviceGetCount() else "cpu"
    except pynvml.NVMLError:
        return "cpu"


def device_bytes(device: str) -> int:
    """Memory of the device, whether it is in use or not; of several GPUs the first; 0 for none."""
    if device == "cpu":
        return usable_memory_bytes()
    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).total)
    except pynvml.NVMLError:
        return 0
