"""The device of one of several engines, and whether it still works."""

from __future__ import annotations

import os
from typing import Any

import torch
from numpy.typing import NDArray

from tritonlm.config import ModelConfig
from tritonlm.container import num_usable_cores
from tritonlm.errors import InvalidArgument

THREADS_VARIABLE = "OMP_NUM_THREADS"


def choose_device(name: str) -> torch.device:
    """The device that a setting means; raises `InvalidArgument` where there is none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise InvalidArgument("device", name, "this machine has no usable CUDA device; allowed: "
                                              "auto, cpu")
    is_cuda = name == "cuda" or (name == "auto" and torch.cuda.is_available())
    return torch.device("cuda" if is_cuda else "cpu")


def put(values: NDArray[Any], device: torch.device) -> torch.Tensor:
    """`values` on the device, for which the host does not wait."""
    tensor = torch.from_numpy(values)
    # From other memory a copy waits for all that the device has to do before it.
    tensor = tensor.pin_memory() if device.type == "cuda" else tensor
    return tensor.to(device, non_blocking=True)


def take_share(config: ModelConfig, place: int) -> None:
    """Have process number `place` of those on this machine use its own GPU, or share of the cores.

    Raises `InvalidArgument` if there are fewer GPUs than processes.
    """
    num_processes = config.num_engines * config.tensor_parallel // config.tensor_parallel_nodes
    if config.device == "cpu" or not torch.cuda.is_available():
        take_cores(num_usable_cores() // num_processes)
        return
    if num_processes == 1:
        return
    num_gpus = torch.cuda.device_count()
    if num_processes > num_gpus:
        name = "num_engines" if config.tensor_parallel == 1 else "tensor_parallel"
        raise InvalidArgument(name, getattr(config, name), "allowed: num_engines times "
                              f"tensor_parallel up to {num_gpus}, as many as there are GPUs")
    torch.cuda.set_device(place)


def take_cores(num_cores: int) -> None:
    """Compute with a thread a core, at least one, unless the environment says how many.

    Never more than torch has by itself, which knows of cores that are two threads of one.
    """
    if THREADS_VARIABLE not in os.environ:
        torch.set_num_threads(max(1, min(num_cores, torch.get_num_threads())))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device had no memory left, or the host, for which there is no type of error."""
    return (isinstance(error, MemoryError | torch.OutOfMemoryError)
            or "allocate memory" in str(error))


def lost_device() -> str | None:
    """Why no step will ever work again in this process; None while the device works.

    An error inside a kernel breaks a process's CUDA context for good, and every later call says so.
    """
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return None
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        return str(error).partition("\n")[0]
    return None
