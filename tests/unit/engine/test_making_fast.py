"""Models whose code does not do with paged attention, compiled or captured, what it should."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tritonlm.config import ModelConfig
from tritonlm.engine.build import _check_attention, _make_fast
from tritonlm.engine.loading import Sample
from tritonlm.errors import InvalidArgument

MODEL = SimpleNamespace(module=torch.nn.Identity(), dtype=torch.float32)
ERROR = RuntimeError("operation not permitted when stream is capturing\nmore of it")
NO_MEMORY = torch.OutOfMemoryError("tried to allocate")


def runner_that(compile_error=None, capture_error=None):
    def fail(error):
        if error is not None:
            raise error

    return SimpleNamespace(compile=lambda steps, progress: fail(compile_error),
                           capture=lambda progress: fail(capture_error))


def test_a_model_that_cannot_be_compiled_is_named_with_what_to_do():
    with pytest.raises(InvalidArgument, match=(
            r"^compile: True .* Identity cannot be compiled, with false .*: "
            r"operation not permitted when stream is capturing$")):
        _make_fast(runner_that(compile_error=ERROR), None, MODEL, print)


def test_a_model_that_cannot_be_captured_is_served_and_told():
    said = []
    _make_fast(runner_that(capture_error=ERROR), None, MODEL, said.append)
    line, = said
    assert "Identity in float32 cannot be captured" in line
    assert line.endswith(": operation not permitted when stream is capturing")


@pytest.mark.parametrize("step", ["compile_error", "capture_error"])
def test_a_lack_of_memory_is_no_fault_of_the_model(step):
    with pytest.raises(torch.OutOfMemoryError):
        _make_fast(runner_that(**{step: NO_MEMORY}), None, MODEL, print)


def test_a_model_that_fails_with_paged_attention_is_refused_by_name():
    def fail(batch):
        raise ERROR

    samples = tuple(Sample(tuple(range(length)), torch.zeros(8)) for length in (7, 4))
    model = SimpleNamespace(module=torch.nn.Identity(), samples=samples)
    with pytest.raises(InvalidArgument, match=r"^model: 'x' .* Identity does not run with paged "
                                              r"attention: operation not permitted"):
        _check_attention(ModelConfig("x"), model, fail)
