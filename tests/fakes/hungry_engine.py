"""The real engine, in a process that gets little memory beside that of its libraries."""

from __future__ import annotations

import resource
import sys

import psutil
from transformers.models.llama import modeling_llama  # noqa: F401 - what is to come is the model

from tritonlm.engine.worker import main

ROOM_BYTES = 800 * 2**20

if __name__ == "__main__":
    resource.setrlimit(
        resource.RLIMIT_AS, (psutil.Process().memory_info().vms + ROOM_BYTES,) * 2)
    sys.exit(main())
