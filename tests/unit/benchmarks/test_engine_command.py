"""The command, on a shape that is small enough for a test."""

from __future__ import annotations

import json

import pytest
import typer
from benchmarks import engine
from benchmarks.shapes import SHAPES
from transformers import LlamaConfig
from typer.testing import CliRunner

ON_A_CPU = ("--set", "device=cpu")
SMALL_ENGINE = ("--set", "max_num_seqs=2", "--set", "max_num_batched_tokens=512",
                "--set", "kv_cache_gib=0.02")


@pytest.fixture
def small_shape(monkeypatch):
    config = LlamaConfig(vocab_size=160, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
                         num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=1024)
    monkeypatch.setitem(SHAPES, "Q06", config)
    return "Q06"


def run(*arguments):
    app = typer.Typer()
    app.command()(engine.main)
    return CliRunner().invoke(app, [*ON_A_CPU, *arguments])


def test_speed_and_urgent_requests_of_a_shape(small_shape, tmp_path):
    results = tmp_path / "results.json"
    done = run("--shape", small_shape, "--concurrency", "2", "--measure", "speed",
               "--measure", "urgent", *SMALL_ENGINE, "--json", str(results))
    assert done.exit_code == 0, done.output
    assert "| Q06 | 2 | tritonlm |" in done.stdout
    kept = json.loads(results.read_text())
    assert kept["versions"]["torch"]
    (speed,) = kept["speed"]
    assert speed["workload"] == {"concurrency": 2, "num_requests": 8, "num_prompt_tokens": 512,
                                 "num_output_tokens": 256}
    assert speed["speed"]["output_tokens_per_s"] > 0
    assert speed["scheduling_ms"] > 0 < speed["launching_ms"]
    assert speed["scheduling_ms"] + speed["launching_ms"] < speed["speed"]["step_ms"]
    (delay,) = kept["urgent"]
    assert 1 <= delay["median_steps"] <= 256, "an urgent request does not wait its turn"


def test_a_random_checkpoint_is_written_once(small_shape, tmp_path):
    arguments = ("--shape", small_shape, "--concurrency", "1", "--measure", "speed",
                 *SMALL_ENGINE, "--checkpoints", str(tmp_path))
    assert run(*arguments).exit_code == 0
    weights = tmp_path / small_shape / "model.safetensors"
    written = weights.stat().st_mtime_ns
    assert run(*arguments).exit_code == 0
    assert weights.stat().st_mtime_ns == written


@pytest.mark.parametrize(("arguments", "said"), [
    (("--shape", "Q07"), "Q07"),
    (("--measure", "colour"), "colour"),
    (("--concurrency", "0"), "concurrency"),
    (("--set", "max_num_seqs"), "NAME=VALUE"),
    (("--set", "no_such_setting=1"), "no_such_setting"),
])
def test_what_cannot_be_measured_is_refused(arguments, said):
    refused = run(*arguments)
    assert refused.exit_code == 2
    assert said in refused.output
