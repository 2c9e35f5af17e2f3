"""Batches that are padded to few shapes and replayed, without a GPU: a replay computes anew."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from drawn_rows import KINDS, MAX_LEN, draw_rows
from hypothesis import given
from hypothesis import strategies as st

from tritonlm.encoders import shapes, task
from tritonlm.encoders.captured import CapturedForward, Recording, relative_error
from tritonlm.encoders.row_runner import BATCH_COST, CAPTURED_BATCH_COST, Work
from tritonlm.encoders.rows import shape_of
from tritonlm.encoders.shapes import Shape, Shapes

LIMITS = st.tuples(st.integers(1, 40_000), st.integers(1, 40_000))
WIDTH = 3


class Replays:
    """A recorder for which a replay is `gain` times as fast, and calls the function again."""

    def __init__(self, gain=10.0, error=0.0):
        self.gain, self.error = gain, error
        self.num_replays = self.num_timed = 0

    def record(self, function):
        output = function()

        def replay():
            self.num_replays += 1
            output.copy_(function() + self.error)

        return Recording(output, replay)

    def seconds(self, function):
        """Those of the forward, and then those of its graph."""
        function()
        self.num_timed += 1
        return self.gain if self.num_timed % 2 else 1.0


def forward(inputs):
    """A function of every token that is no padding, and of its place."""
    ids, mask = inputs["input_ids"].float(), inputs["attention_mask"].float()
    places = torch.arange(ids.shape[1]) + 1.0
    return (ids * mask * places).sum(1, keepdim=True).expand(-1, WIDTH).contiguous()


def draw(shape):
    mask = torch.ones(shape, dtype=torch.int64)
    mask[:, shape.length // 2 + 1:] = 0
    return {"input_ids": torch.randint(1, 9, shape), "attention_mask": mask}


def captured(recorder, max_row_len=32, max_batch_tokens=128):
    result = CapturedForward(forward)
    result.capture(Shapes(max_row_len, max_batch_tokens), recorder, draw, 1e-4, list)
    return result


@given(LIMITS)
def test_there_are_few_shapes_and_the_largest_comes_first(limits):
    every = Shapes(*limits).all()
    sizes = [shape.num_tokens for shape in every]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(every)) == len(every) < 80
    for shape in every:
        assert shape.length <= limits[0]
        assert shape.num_tokens <= min(limits[1], shapes.MAX_TOKENS)


@given(LIMITS, st.integers(1, 70), st.integers(1, 9000))
def test_the_shape_around_a_batch_is_the_smallest_it_fits_into(limits, num_rows, length):
    kind = Shapes(*limits)
    fitting = [shape for shape in kind.all()
               if shape.num_rows >= num_rows and shape.length >= length]
    around = kind.around(Shape(num_rows, length))
    if around is None:  # what is around it may be too large, and nothing smaller fits
        assert not fitting or limits[0] < length
    else:
        assert around == min(fitting, key=lambda shape: shape.num_tokens)


def test_half_of_a_padded_batch_at_most_is_padding_in_either_direction():
    kind = Shapes(512, 16_384)
    for num_rows in range(1, 65):
        for length in range(16, 513):
            around = kind.around(Shape(num_rows, length))
            assert around is None or (around.num_rows < 2 * num_rows
                                      and around.length <= 2 * length)


@pytest.mark.parametrize("name", KINDS)
def test_a_task_computes_the_same_with_graphs(tmp_path, monkeypatch, name):
    monkeypatch.setattr(shapes, "NUMS_OF_ROWS", (1, 4, 8))
    monkeypatch.setattr(shapes, "LENGTHS", (8, 24, 48))
    kind = KINDS[name]
    computes = kind.make(kind.save(tmp_path, **kind.options), device="cpu")
    random, recorder = np.random.default_rng(0), Replays()
    batches = [draw_rows(random, num_rows, kind.has_types) for num_rows in (1, 2, 3, 5, 8, 13)]
    expected = [computes.runner.run(rows) for rows in batches]
    computes.runner.capture(MAX_LEN, recorder)
    assert computes.runner.batch_cost == CAPTURED_BATCH_COST
    before = recorder.num_replays
    for rows, one in zip(batches, expected, strict=True):
        np.testing.assert_allclose(computes.runner.run(rows), one, rtol=0, atol=1e-5)
    assert recorder.num_replays - before >= len(batches) - 1  # 13 rows are too many for a graph


def test_rows_of_padding_are_counted_as_padding(tmp_path):
    kind = KINDS["bert"]
    embedder = kind.make(kind.save(tmp_path), device="cpu")
    embedder.runner.capture(MAX_LEN, Replays())
    rows = draw_rows(np.random.default_rng(1), 5, has_types=True)
    num_tokens = sum(row.ids.size for row in rows)
    shape = Shapes(MAX_LEN, 10**4).around(shape_of(rows))
    embedder.runner.run(rows)
    assert embedder.runner.work == Work(5, 1, num_tokens, shape.num_tokens - num_tokens)


def test_a_result_is_kept_when_its_graph_is_replayed_again():
    recorder = Replays()
    replayed = captured(recorder)
    first, second = draw(Shape(4, 16)), draw(Shape(4, 16))
    results = [replayed(inputs) for inputs in (first, second)]
    for inputs, result in zip((first, second), results, strict=True):
        torch.testing.assert_close(result, forward(inputs))


def test_a_batch_without_a_graph_keeps_its_shape_and_is_computed():
    recorder = Replays()
    replayed = captured(recorder)
    before = recorder.num_replays
    assert replayed.padded(Shape(3, 20)) == Shape(4, 32)
    for own in (Shape(5, 20), Shape(1, 33), Shape(65, 1)):
        assert replayed.padded(own) == own
    inputs = draw(Shape(5, 20))
    torch.testing.assert_close(replayed(inputs), forward(inputs))
    assert recorder.num_replays == before


def test_graphs_that_do_not_pay_are_not_kept():
    assert captured(Replays(gain=1.2)).num_graphs == 0
    assert captured(Replays(gain=1.3)).num_graphs == len(Shapes(32, 128).all())


def test_what_cannot_be_captured_is_computed_and_the_log_says_why(caplog):
    def record(function):
        raise RuntimeError("called a synchronizing CUDA operation\nmore of it")

    recorder = Replays()
    recorder.record = record
    computed = captured(recorder)
    assert computed.num_graphs == 0
    assert computed.padded(Shape(3, 20)) == Shape(3, 20)
    inputs = draw(Shape(4, 32))
    torch.testing.assert_close(computed(inputs), forward(inputs))
    [line] = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert line.endswith("cannot be captured: called a synchronizing CUDA operation")


def test_one_shape_that_fails_ends_them_all():
    recorder, num_recorded = Replays(), 0
    usual = recorder.record

    def record(function):
        nonlocal num_recorded
        num_recorded += 1
        if num_recorded == 3:
            raise MemoryError("cannot allocate memory")
        return usual(function)

    recorder.record = record
    assert captured(recorder).num_graphs == 0
    assert num_recorded == 3


@pytest.mark.parametrize("error", [0.1, float("nan")])
def test_a_replay_that_comes_out_differently_is_not_used(caplog, error):
    recorder = Replays(error=1000 * error)
    assert captured(recorder).num_graphs == 0
    assert "a replay comes out differently" in caplog.text


def test_an_error_is_relative_to_the_largest_value():
    expected = torch.tensor([[1.0, -4.0]])
    assert relative_error(expected + 1, expected) == 0.25
    assert relative_error(torch.zeros(1, 2), torch.zeros(1, 2)) == 0


@pytest.mark.parametrize(("device", "is_asked", "is_captured"), [
    ("cuda", True, True), ("cuda", False, False), ("cpu", True, False)])
def test_graphs_are_for_a_gpu_unless_told_otherwise(monkeypatch, device, is_asked, is_captured):
    calls = []
    monkeypatch.setattr(task, "CudaGraphs", lambda: "graphs")
    runner = SimpleNamespace(probe=lambda: None, device=torch.device(device),
                             capture=lambda *arguments: calls.append(arguments))
    task.make_ready(SimpleNamespace(settings=SimpleNamespace(cuda_graphs=is_asked)), runner, 50)
    assert calls == ([(50, "graphs")] if is_captured else [])


def test_without_graphs_a_batch_costs_what_it_costs_on_its_device(tmp_path):
    kind = KINDS["bert"]
    embedder = kind.make(kind.save(tmp_path), device="cpu")
    embedder.runner.capture(MAX_LEN, Replays(gain=1.0))
    assert embedder.runner.batch_cost == BATCH_COST["cpu"]
