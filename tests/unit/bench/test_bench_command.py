"""What `tritonlm bench` refuses, and what it writes."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from tritonlm.bench.load import Load
from tritonlm.bench.plotting import check_plot, plot
from tritonlm.bench.report import as_json, table
from tritonlm.bench.seen import Seen
from tritonlm.bench.summary import Summary
from tritonlm.cli import app
from tritonlm.errors import InvalidArgument

SEEN = [Seen(0.0, (0.1, 0.2, 0.4), 5, 4), Seen(0.0, (0.3,), 5, 1), Seen(0.0, error="no")]


@pytest.mark.parametrize(("options", "named"), [
    (["--backend", "carrier-pigeon"], "backend: 'carrier-pigeon'"),
    (["--goodput", "ttft:fast"], "goodput: 'fast'"), (["--plot", "a.txt"], "plot: 'a.txt'"),
    (["--json", "/absent/a.json"], "json: '/absent/a.json'"), (["--json", "/"], "json: '/'"),
    (["--url", "here"], "url: 'here'"),
    (["--num-prompts", "0"], "num_prompts: 0"), (["--input-len", "0"], "input_len: 0"),
    (["--prompts", "/absent.jsonl", "--url", "localhost:1"], "prompts: '/absent.jsonl'"),
    (["--url", "localhost:1", "--backend", "sse"], "no server answers at localhost:1")])
def test_what_cannot_be_measured_is_refused_by_name(options, named):
    result = CliRunner().invoke(app, ["bench", *options])
    assert result.exit_code == 1
    assert named in result.stderr


def test_an_unknown_option_is_refused():
    result = CliRunner().invoke(app, ["bench", "--concurency", "3"])
    assert result.exit_code == 2
    assert "--concurency" in result.stderr


def test_json_tells_load_and_result_and_hides_the_key():
    load = Load(api_key="secret")
    text = as_json(load, 2, Summary.of(SEEN, {"ttft": 200.0}))
    told = json.loads(text)
    assert b"secret" not in text
    assert (told["load"]["num_processes"], told["load"]["url"]) == (2, "localhost:8001")
    assert (told["result"]["num_failed"], told["result"]["good_share"]) == (1, 1 / 3)
    assert told["result"]["output_tokens_per_s"] == pytest.approx(5 / 0.4)


def test_what_there_is_not_is_null_in_json():
    told = json.loads(as_json(Load(), 1, Summary.of([Seen(0.0, error="no")])))
    assert told["result"]["ttft_ms"]["p99"] is None
    assert told["result"]["output_tokens_per_s"] is None


def test_the_table_has_a_row_of_goodput_only_with_limits():
    assert table(Summary.of(SEEN, {"ttft": 200.0})).row_count == table(
        Summary.of(SEEN)).row_count + 1


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_a_plot_is_written(tmp_path, suffix):
    pytest.importorskip("matplotlib", reason="needs tritonlm[bench]")
    path = tmp_path / f"plot{suffix}"
    plot(SEEN, path)
    assert path.stat().st_size > 5_000
    if suffix == ".svg":
        assert path.read_text().count("<g id=\"axes_") == 4


def test_a_plot_without_matplotlib_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(InvalidArgument, match=r"pip install .*\[bench\]"):
        check_plot(tmp_path / "plot.png")
