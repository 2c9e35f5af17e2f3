"""The benchmark of memory, on fewer requests than it is made for."""

from __future__ import annotations

import json

import typer
from benchmarks import memory
from benchmarks.random_load import OPTIONS, random_requests
from typer.testing import CliRunner


def run(*arguments):
    app = typer.Typer()
    app.command()(memory.main)
    return CliRunner().invoke(app, ["--set", "device=cpu", *arguments])


def test_all_blocks_are_back_and_the_footprints_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "random_requests",
                        lambda count, vocab_size, seed: random_requests(60, vocab_size, seed))
    monkeypatch.setattr(memory.Growth, "is_leak", False)
    results = tmp_path / "results.json"
    done = run("--concurrency", "8", "--json", str(results))
    assert done.exit_code == 0, done.output
    assert "0 of 819 blocks are still in use" in done.stdout
    assert " 0 requests were cancelled" not in done.stdout
    kept = json.loads(results.read_text())
    assert kept["footprint"][-1]["num_requests"] == 60
    assert kept["footprint"][-1]["host_mib"] > 100
    assert set(kept["growth"][0]) == {"host_mib", "device_mib"}


def test_a_malformed_setting_is_refused():
    refused = run("--set", "block_size")
    assert refused.exit_code == 2
    assert "NAME=VALUE" in refused.output


def test_requests_have_all_options_lengths_and_users():
    requests = random_requests(200, 50, seed=1)
    assert requests == random_requests(200, 50, seed=1)
    assert len({(r.temperature, r.top_k, r.min_p, r.repetition_penalty, r.min_tokens,
                 r.num_logprobs) for r in requests}) == len(OPTIONS)
    assert {r.priority for r in requests} == {0, 1, 2, 3}
    assert len({r.num_prompt_tokens for r in requests}) > 50
