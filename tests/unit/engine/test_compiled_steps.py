"""Compiled code that is kept in files, on a CPU."""

from __future__ import annotations

import shutil

import pytest
import torch

from tritonlm.engine.compiled import CompiledSteps, fingerprint
from tritonlm.engine.tensor_parallel.group import Group

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="torch compiles for a CPU by g++")


class Model(torch.nn.Module):
    def __init__(self, size=8):
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(size, size) for _ in range(2))

    def forward(self, row):
        for layer in self.layers:
            row = row + layer(row).tanh()
        return row


def bind(module):
    def forward(row):
        return row, module(row)

    return forward


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.inference_mode():
        yield


@pytest.fixture
def arguments():
    row = torch.randn(4, 8)
    torch._dynamo.mark_dynamic(row, 0)
    return (row,)


@pytest.fixture
def traced(monkeypatch):
    """The functions that torch was asked to compile."""
    functions, compile_it = [], torch.compile

    def compile_and_count(function, **settings):
        functions.append(function)
        return compile_it(function, **settings)

    monkeypatch.setattr(torch, "compile", compile_and_count)
    return functions


def assert_equal(compiled, model):
    for size in (2, 4, 7):
        row = torch.randn(size, 8)
        torch.testing.assert_close(compiled(row)[1], model(row))


def test_what_is_compiled_is_compiled_once_whatever_the_weights(tmp_path, arguments, traced):
    first, second = Model(), Model()
    assert_equal(CompiledSteps(tmp_path, first, print).compile("a", bind(first), arguments), first)
    again = CompiledSteps(tmp_path, second, print).compile("a", bind(second), arguments)
    assert_equal(again, second)
    assert len(traced) == 1


def test_a_damaged_file_is_replaced(tmp_path, arguments, traced):
    model, said = Model(), []
    CompiledSteps(tmp_path, model, said.append).compile("a", bind(model), arguments)
    path, = tmp_path.glob("*/a-*.bin")
    path.write_bytes(path.read_bytes()[:100])
    for _ in range(2):
        assert_equal(CompiledSteps(tmp_path, model, said.append).compile(
            "a", bind(model), arguments), model)
    assert len(traced) == 2
    assert [line.split(" is of")[0] for line in said] == [str(path)]


def test_what_cannot_be_kept_is_compiled_all_the_same(tmp_path, arguments):
    model, said = Model(), []

    def forward(row):
        print(end="")  # breaks the graph
        return row, model(row)

    assert_equal(CompiledSteps(tmp_path, model, said.append).compile("a", forward, arguments),
                 model)
    assert "cannot be kept" in said[0]
    assert not list(tmp_path.iterdir())


def test_each_part_of_a_shared_model_has_code_of_its_own(monkeypatch):
    model, prints = Model(), set()
    for rank in range(2):
        monkeypatch.setattr(Group, "of_process", lambda rank=rank: Group(rank, 2))
        prints.add(fingerprint(model))
    assert len(prints) == 2


def test_other_shapes_types_and_layers_are_other_code():
    assert fingerprint(Model()) == fingerprint(Model())
    deeper = Model()
    deeper.layers.append(torch.nn.Linear(8, 8))
    others = {fingerprint(model) for model in (Model(), Model(9), Model().bfloat16(), deeper)}
    assert len(others) == 4
