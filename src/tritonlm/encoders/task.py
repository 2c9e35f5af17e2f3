"""What a task is to the process that serves it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tritonlm.encoders.checkpoint import Checkpoint
from tritonlm.encoders.cuda_graphs import CudaGraphs
from tritonlm.encoders.loading import NO_MEMORY
from tritonlm.encoders.row_encoder import RowEncoder
from tritonlm.encoders.row_runner import RowRunner
from tritonlm.engine.device import is_out_of_memory
from tritonlm.errors import InvalidArgument, first_line

Tensors = Mapping[str, NDArray[Any]]


class Task(Protocol):
    """Rows to vectors, and vectors to the outputs of a request."""

    encoder: RowEncoder
    runner: RowRunner

    def check(self, tensors: Tensors) -> None:
        """Raise `InvalidArgument` for what a request asks for beside its rows."""

    def outputs(self, vectors: NDArray[np.float32], tensors: Tensors) -> dict[str, NDArray[Any]]:
        """The outputs of a request, [rows, n] each, from the vectors [rows, width] of its rows."""


def make_ready(checkpoint: Checkpoint, runner: RowRunner, max_row_len: int) -> None:
    """Try the module, and make it fast; raises `InvalidArgument` if it does not run in batches."""
    _require_probe(checkpoint, runner)
    if checkpoint.settings.cuda_graphs and runner.device.type == "cuda":
        runner.capture(max_row_len, CudaGraphs())


def _require_probe(checkpoint: Checkpoint, runner: RowRunner) -> None:
    try:
        reason = runner.probe()
    except InvalidArgument:
        raise
    except Exception as error:
        what = NO_MEMORY if is_out_of_memory(error) else (
            f"a {checkpoint.architecture} does not run on plain token ids")
        raise checkpoint.refused(f"{what}: {first_line(error)}") from error
    if reason:
        raise checkpoint.refused(f"{checkpoint.architecture}: {reason}")
