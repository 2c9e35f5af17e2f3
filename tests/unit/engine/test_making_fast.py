"""Models whose code cannot be compiled, or not captured, on a device that would have them so."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tritonlm.engine.build import _make_fast
from tritonlm.errors import InvalidArgument

MODEL = SimpleNamespace(module=torch.nn.Identity())


def runner_that_raises(error):
    def capture(progress):
        raise error

    return SimpleNamespace(compile=lambda steps, progress: None, capture=capture)


def test_a_model_that_cannot_be_captured_is_named_with_what_to_do():
    error = RuntimeError("operation not permitted when stream is capturing\nmore of it")
    with pytest.raises(InvalidArgument, match=(
            r"^compile: True .* Identity cannot be captured in CUDA graphs, with false .*: "
            r"operation not permitted when stream is capturing$")):
        _make_fast(runner_that_raises(error), None, MODEL)


def test_a_lack_of_memory_is_no_fault_of_the_model():
    with pytest.raises(torch.OutOfMemoryError):
        _make_fast(runner_that_raises(torch.OutOfMemoryError("tried to allocate")), None, MODEL)
