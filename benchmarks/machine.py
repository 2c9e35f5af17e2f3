"""Where and when something was measured."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
from pathlib import Path
from typing import Any

import psutil
import torch

LIBRARIES = ("torch", "transformers", "triton", "numpy")


def describe(device: torch.device) -> dict[str, Any]:
    """Date, hardware and versions."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "hardware": _hardware(device),
        "versions": {"python": platform.python_version()} | {
            name: _version(name) for name in LIBRARIES},
    }


def one_line(description: dict[str, Any]) -> str:
    """What `describe` says, for people."""
    hardware = ", ".join(str(value) for value in description["hardware"].values())
    versions = ", ".join(f"{name} {version}" for name, version in description["versions"].items()
                         if version)
    return f"{description['date'][:10]}; {hardware}; {versions}"


def _hardware(device: torch.device) -> dict[str, str]:
    hardware = {
        "cpu": f"{_cpu_name()} with {psutil.cpu_count()} cores",
        "threads": f"{torch.get_num_threads()} threads of torch",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
    }
    if device.type == "cuda":
        hardware = {"gpu": torch.cuda.get_device_name(device)} | hardware
    return hardware


def _cpu_name() -> str:
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text().splitlines() if cpu_info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
