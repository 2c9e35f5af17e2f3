"""Latencies of requests, and what a load of them adds up to."""

from __future__ import annotations

import dataclasses
import math

import pytest

from tritonlm.bench.goodput import is_good, parse_limits
from tritonlm.bench.report import table
from tritonlm.bench.seen import Seen, Watch
from tritonlm.bench.summary import Distribution, Summary
from tritonlm.errors import InvalidArgument

FAST = Seen(10.0, (10.1, 10.2, 10.5), num_input_tokens=7, num_output_tokens=5)
SLOW = Seen(10.0, (11.0, 12.0), num_input_tokens=3, num_output_tokens=2)
SINGLE = Seen(10.5, (11.5,), num_output_tokens=1)
FAILED = Seen(9.0, (9.5,), num_output_tokens=1, error="UNAVAILABLE: full")


def test_latencies_of_a_request():
    assert FAST.ttft_ms == pytest.approx(100)
    assert FAST.itl_ms == pytest.approx([100, 300])
    assert FAST.tpot_ms == pytest.approx(400 / 4), "of tokens after the first, not of chunks"
    assert FAST.e2e_ms == pytest.approx(500)


def test_a_single_token_has_no_time_per_token_after_it():
    assert (SINGLE.tpot_ms, SINGLE.itl_ms) == (0, [])
    assert Summary.of([FAST, SINGLE]).tpot_ms.mean == pytest.approx(100)


def test_a_summary_counts_what_went_well():
    summary = Summary.of([FAST, SLOW, FAILED])
    assert (summary.num_requests, summary.num_failed) == (3, 1)
    assert (summary.num_input_tokens, summary.num_output_tokens, summary.num_chunks) == (10, 7, 5)
    assert summary.first_error == "UNAVAILABLE: full"
    assert summary.good_share is None


def test_rates_are_over_the_time_from_the_first_request_to_the_last_chunk():
    summary = Summary.of([FAST, SLOW, FAILED])
    assert summary.duration_s == pytest.approx(3.0), "a failed request took its time too"
    assert summary.requests_per_s == pytest.approx(2 / 3)
    assert summary.output_tokens_per_s == pytest.approx(7 / 3)
    assert summary.total_tokens_per_s == pytest.approx(17 / 3)
    assert summary.tokens_per_chunk == pytest.approx(7 / 5)


def test_inter_token_latencies_are_those_of_all_chunks_together():
    assert Summary.of([FAST, SLOW]).itl_ms.mean == pytest.approx((100 + 300 + 1000) / 3)


def test_percentiles_are_interpolated():
    assert Distribution.of([0.0, 10.0, 20.0, 30.0, 40.0]) == Distribution(
        mean=20, median=20, p90=pytest.approx(36), p99=pytest.approx(39.6))


def test_a_client_that_is_late_says_so():
    late = [dataclasses.replace(FAST, late_s=0.002), dataclasses.replace(SLOW, late_s=0.004)]
    assert Summary.of(late).late_ms.mean == pytest.approx(3)
    assert table(Summary.of(late)).row_count == table(Summary.of([FAST, SLOW])).row_count + 1


def test_a_load_that_fails_has_no_speed():
    summary = Summary.of([FAILED])
    assert summary.num_failed == 1
    assert math.isnan(summary.output_tokens_per_s)
    assert math.isnan(summary.ttft_ms.p99)


def test_an_answer_that_brings_nothing_has_failed():
    assert Watch(1.0).seen().error == "the answer was empty"
    assert Watch(1.0, error="no").seen().error == "no"


def test_goodput_counts_requests_within_all_limits():
    limits = parse_limits(["ttft:200 tpot:150"])
    assert [is_good(one, limits) for one in (FAST, SLOW, SINGLE, FAILED)] == [
        True, False, False, False]
    summary = Summary.of([FAST, SLOW, FAILED, FAST], limits)
    assert summary.good_share == 0.5
    assert summary.good_requests_per_s == pytest.approx(2 / 3)


def test_limits_may_be_in_one_text_or_several():
    expected = {"ttft": 200.0, "tpot": 20.5}
    assert parse_limits(["ttft:200 tpot:20.5"]) == expected
    assert parse_limits(["ttft:200", "tpot:20.5"]) == expected


@pytest.mark.parametrize("text", ["ttft", "ttft:", "ttft:x", "ttft:0", "ttft:-1", "ttft:nan",
                                  "itl:3", "ttft:1 ttft:2", ":1"])
def test_limits_that_are_none_are_refused(text):
    with pytest.raises(InvalidArgument, match="goodput"):
        parse_limits([text])
