"""Objectives of a load test: how they are read, and when they are met."""

from __future__ import annotations

from pathlib import Path

import pytest
from loadtests.ledger import Ledger
from loadtests.slo import Slo

from tritonlm.bench.seen import Seen
from tritonlm.errors import InvalidArgument

LOADTESTS = Path(__file__).parents[3] / "loadtests"
GOOD = Seen(0.0, (0.1, 0.2), num_output_tokens=2)
BAD = Seen(0.0, (2.0, 2.1), num_output_tokens=2)
FAILED = Seen(0.0, error="no")


def ledger(*seen, is_stream=True, limits_ms=None):
    made = Ledger()
    for one in seen:
        made.count(one, is_stream, limits_ms or {})
    return made


def verdicts(given, seen_by):
    return [one.is_met for one in Slo.parse(given).verdicts(seen_by)]


@pytest.mark.parametrize(("given", "named"), [
    (None, "slo"), ([], "slo"), ({}, "slo"), ("fast", "slo"),
    ({"latency": {}}, "latency"), ({"latency_ms": None}, "latency_ms"),
    ({"latency_ms": {"ttfb": {"p50": 1}}}, "ttfb"),
    ({"latency_ms": {"carrier ttft": {"p50": 1}}}, "carrier ttft"),
    ({"latency_ms": {"ttft": 100}}, "latency_ms: ttft"),
    ({"latency_ms": {"ttft": {"median": 1}}}, "median"),
    ({"latency_ms": {"ttft": {"p0": 1}}}, "p0"), ({"latency_ms": {"ttft": {"p101": 1}}}, "p101"),
    ({"latency_ms": {"ttft": {"p50": "fast"}}}, "p50"),
    ({"latency_ms": {"ttft": {"p50": 0}}}, "p50"),
    ({"max_error_share": 2}, "max_error_share"), ({"max_error_share": "no"}, "max_error_share"),
    ({"goodput": {"ttft_ms": 1}}, "min_share"), ({"goodput": {"min_share": 1}}, "ttft_ms"),
    ({"goodput": {"ttft": 1, "min_share": 1}}, "ttft"), ({"goodput": []}, "goodput"),
    ({"goodput": {"tpot_ms": -1, "min_share": 1}}, "tpot_ms"),
    ({"goodput": {"tpot_ms": 1, "min_share": 1.5}}, "min_share")])
def test_what_is_no_objective_is_named(given, named):
    with pytest.raises(InvalidArgument) as refused:
        Slo.parse(given)
    assert named in refused.value.message


@pytest.mark.parametrize("text", ["a: [", "\x00", None])
def test_a_file_that_cannot_be_read_is_named(tmp_path, text):
    path = tmp_path / "slo.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InvalidArgument, match=r"slo\.yaml"):
        Slo.read(str(path))


@pytest.mark.parametrize("path", [*LOADTESTS.glob("*.yaml")], ids=lambda path: path.name)
def test_our_own_files_are_objectives(path):
    assert list(Slo.read(str(path)).verdicts(Ledger()))


def test_a_percentile_is_that_of_all_users_or_of_a_kind():
    seen = Ledger()
    for ms in range(1, 101):
        seen.add("grpc", "ttft", ms)
        seen.add("sse", "ttft", 10 * ms)
    limits = {"ttft": {"p50": 101, "p99": 985}, "grpc ttft": {"p99": 100},
              "sse ttft": {"p99": 900}}
    assert verdicts({"latency_ms": limits}, seen) == [True, True, True, False]


def test_what_was_not_measured_is_missed():
    given = {"latency_ms": {"websocket ttft": {"p99": 1000}}, "max_error_share": 1,
             "goodput": {"ttft_ms": 1, "min_share": 0}}
    assert verdicts(given, Ledger()) == [False, False, False]


def test_the_share_of_errors():
    seen = ledger(GOOD, GOOD, GOOD, FAILED)
    assert verdicts({"max_error_share": 0.25}, seen) == [True]
    assert verdicts({"max_error_share": 0.2}, seen) == [False]


def test_goodput_is_the_share_of_streams_within_all_limits():
    slo = Slo.parse({"goodput": {"ttft_ms": 500, "tpot_ms": 150, "min_share": 0.5}})
    seen = ledger(GOOD, BAD, limits_ms=slo.limits_ms)
    seen.count(GOOD, is_stream=False, limits_ms=slo.limits_ms)
    [verdict] = slo.verdicts(seen)
    assert (verdict.measured, verdict.is_met) == (0.5, True)
    seen.count(FAILED, is_stream=True, limits_ms=slo.limits_ms)
    assert not next(slo.verdicts(seen)).is_met, "a failed stream is not good"
