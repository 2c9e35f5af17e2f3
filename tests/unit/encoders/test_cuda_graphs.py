"""Batches that a GPU replays equal those that it is told to compute."""

from __future__ import annotations

import gc
import json
import logging

import numpy as np
import pytest
import torch
from drawn_rows import KINDS, MAX_LEN, draw_rows
from tests.task_checkpoints import save_embedder

from tritonlm.encoders.captured import relative_error
from tritonlm.encoders.cuda_graphs import CudaGraphs
from tritonlm.encoders.shapes import Shapes

pytestmark = [pytest.mark.gpu,
              pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

CLOSE = {"float32": 1e-5, "bfloat16": 0.05}
NUM_SHAPES = len(Shapes(MAX_LEN, 16_384).all())


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("name", KINDS)
def test_replayed_batches_equal_computed_ones(tmp_path, name, dtype):
    kind = KINDS[name]
    kind.save(tmp_path, **kind.options)
    computes, replays = (kind.make(tmp_path, device="cuda", dtype=dtype, cuda_graphs=is_captured)
                         for is_captured in (False, True))
    assert computes.runner.num_graphs == 0
    assert replays.runner.num_graphs > NUM_SHAPES // 2
    random = np.random.default_rng(0)
    for num_rows in (1, 1, 2, 3, 64, *random.integers(1, 65, 25)):
        rows = draw_rows(random, num_rows, kind.has_types)
        got, expected = (torch.from_numpy(task.runner.run(rows)) for task in (replays, computes))
        assert relative_error(got, expected) <= CLOSE[dtype], [row.ids.size for row in rows]


def test_batches_that_follow_each_other_do_not_overwrite_results(tmp_path):
    kind = KINDS["bert"]
    embedder = kind.make(kind.save(tmp_path), device="cuda", dtype="float32")
    random = np.random.default_rng(2)
    batches = [draw_rows(random, 8, has_types=True) for _ in range(20)]
    with torch.inference_mode():
        together = [embedder.runner._run_batch(rows) for rows in batches]
    for rows, result in zip(batches, together, strict=True):
        expected = torch.from_numpy(embedder.runner.run(rows))
        assert relative_error(result.cpu(), expected) <= CLOSE["float32"]


def test_a_model_that_waits_for_the_device_is_computed_and_the_log_says_so(tmp_path, caplog):
    """Rotations that grow with the longest row look at the positions on the host."""
    save_embedder(tmp_path, "llama")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rope_parameters": {
        "rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}}))
    kind = KINDS["qwen3_last"]
    embedder = kind.make(tmp_path, device="cuda", dtype="float32")
    assert embedder.runner.num_graphs == 0
    [line] = [record.message for record in caplog.records if record.levelno == logging.WARNING
              and "there are no CUDA graphs" in record.message]
    assert "called a synchronizing CUDA operation" in line
    assert np.isfinite(embedder.runner.run(draw_rows(np.random.default_rng(3), 9, False))).all()
    assert_device_captures()


def wait_for_device():
    torch.cuda.synchronize()
    return torch.ones(1, device="cuda")


def read_back():
    return torch.ones(1, device="cuda").item()


def run_out_of_memory():
    return torch.ones(2**45, device="cuda")


class OnceWell:
    """Called as a warm-up it does no harm."""

    def __init__(self, function):
        self._function, self._is_first = function, True

    def __call__(self):
        if self._is_first:
            self._is_first = False
            return torch.ones(1, device="cuda")
        return self._function()


@pytest.mark.parametrize(("function", "reason"), [
    (read_back, "synchronizing"), (wait_for_device, "captur"),
    (run_out_of_memory, "memory|captur")])
def test_a_capture_that_fails_names_the_reason_and_leaves_the_device_usable(function, reason):
    stream = torch.cuda.current_stream()
    with pytest.raises(RuntimeError, match=reason):
        CudaGraphs().record(OnceWell(function))
    assert torch.cuda.current_stream() == stream
    assert torch.cuda.get_sync_debug_mode() == 0
    assert_device_captures()


def assert_device_captures():
    values = torch.arange(4.0, device="cuda")
    recording = CudaGraphs().record(lambda: values * 2)
    values += 1
    recording.replay()
    assert recording.output.tolist() == [2, 4, 6, 8]


def test_a_model_that_goes_gives_its_memory_back(tmp_path):
    kind = KINDS["bert"]
    kind.save(tmp_path)

    def num_reserved_bytes():
        gc.collect()
        torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved()

    before = num_reserved_bytes()
    embedder = kind.make(tmp_path, device="cuda")
    assert embedder.runner.num_graphs
    assert num_reserved_bytes() > before
    del embedder
    assert num_reserved_bytes() <= before
