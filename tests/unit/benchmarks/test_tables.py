"""Bars, tables and results."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from benchmarks import against_generate, against_vllm, urgent
from benchmarks.against_generate import ONE_BY_ONE, PADDED, Compared
from benchmarks.bars import BARS, PEERS, verdict
from benchmarks.closed_loop import Timeline
from benchmarks.footprint import Footprint, Growth
from benchmarks.host_time import HostTime
from benchmarks.report import Results, Table, number, sparkline
from benchmarks.workload import Speed, Workload


def test_every_bar_has_a_peer_that_it_exceeds():
    assert set(BARS) == set(PEERS)
    assert all(BARS[place] > max(peer.output_tokens_per_s for peer in PEERS[place])
               for place in BARS)


@pytest.mark.parametrize(("measured", "said"), [(780, "met"), (779.9, "missed")])
def test_a_bar_is_met_or_missed(measured, said):
    assert verdict(measured, 780) == said


def test_where_there_is_no_bar_nothing_is_said():
    assert verdict(1, None) == ""


def test_a_ratio_is_the_median_of_pairs_that_ran_side_by_side():
    compared = Compared("demo", 16, ONE_BY_ONE, [100, 10, 90], [50, 4, 30])
    assert compared.ratio == 2.5
    assert compared.bar == 3.0


def test_a_padded_batch_has_no_bar():
    assert Compared("demo", 16, PADDED, [1], [1]).bar is None


def test_numbers_have_three_digits_at_least():
    texts = ["0.00", "1.65", "11.9", "99.9", "100", "34,012"]
    assert [number(value) for value in (0, 1.651, 11.94, 99.94, 99.96, 34_012.4)] == texts


@pytest.mark.parametrize(("values", "line"), [
    ([10, 17, 10], "10.0 ▁█▁ 17.0"), ([5, 5], "5.00 ▁▁ 5.00"), ([0, 1, 2], "0.00 ▁▅█ 2.00")])
def test_values_as_a_line(values, line):
    assert sparkline(values) == line


def test_a_table_as_markdown():
    table = Table("Title", ("name", "ms"), [("one", "1.0")], note="A note.")
    assert table.markdown() == (
        "**Title**\n\n| name | ms |\n| --- | ---: |\n| one | 1.0 |\n\nA note.")


def test_our_row_stands_above_those_of_others():
    speed = Speed(800.0, 1.2, 10, 20, 2.0, 1000, 1.5)
    table = against_vllm.table([against_vllm.Measured("Q06", Workload(1, 6), speed, 0.1, 0.4)])
    ours, theirs = table.rows
    assert ours == ("Q06", "1", "tritonlm", "800", "1.20", "10.0", "20.0", "1,000", "1.50", "0.10",
                    "0.40", "≥ 780", "met")
    assert theirs[:4] == ("Q06", "1", "vLLM", "573")
    assert {len(row) for row in table.rows} == {len(table.columns)}


def test_a_comparison_shows_medians():
    table = against_generate.table([Compared("demo", 1, ONE_BY_ONE, [100, 300, 200], [100] * 3)])
    assert table.rows[0] == ("demo", "1", "200", ONE_BY_ONE, "100", "2.00", "≥ 1.0", "met")


def test_results_are_kept_after_each_addition(tmp_path):
    path = tmp_path / "results.json"
    results = Results(path, {"date": "today"})
    for num_requests in (1, 2):
        results.add("footprint", Footprint(num_requests, 10.0, 0.0))
        kept = json.loads(path.read_text())
        assert kept["date"] == "today"
        assert kept["footprint"][-1] == {"num_requests": num_requests, "host_mib": 10.0,
                                         "device_mib": 0.0}


def test_steps_of_an_urgent_request_count_from_one():
    timeline = Timeline(np.array([0.0, 1.0, 2.0]), np.array([3.0, 1.5, 2.7]), np.zeros(3),
                        np.array([0, 10, 20]), np.array([9, 10, 21]), np.ones(3, np.int64))
    delay = urgent.delay("Q06", 256, timeline, num_normal=1)
    assert (delay.median_steps, delay.most_steps) == (1.5, 2)
    assert (delay.median_ms, delay.most_ms) == pytest.approx((600, 700))
    assert delay.normal_median_ms == 3000


def footprints(host_mib):
    return [Footprint(100 * place, mib, 0.0) for place, mib in enumerate(host_mib)]


def test_memory_that_rises_at_first_does_not_grow():
    growth = Growth.of(footprints([*range(20), *[20.0] * 20]))
    assert growth.host_mib == pytest.approx(0)
    assert not growth.is_leak


def test_memory_that_goes_on_rising_grows():
    growth = Growth.of(footprints([500 + 0.1 * place for place in range(40)]))
    assert growth.host_mib == pytest.approx(1.0)
    assert growth.is_leak


class FakeScheduler:
    """Takes a second for each call."""

    now_s = 0.0

    def schedule(self):
        self.now_s += 1
        return "a batch"

    advance = commit = schedule


class FakeRunner:
    """Takes four seconds for each step."""

    def __init__(self, scheduler):
        self.scheduler = scheduler

    def launch(self, batch):
        self.scheduler.now_s += 4
        return f"a step of {batch}"


def test_the_time_of_scheduler_and_runner_is_added_up_while_it_is_watched():
    scheduler = FakeScheduler()
    engine = SimpleNamespace(scheduler=scheduler, runner=FakeRunner(scheduler))
    with HostTime(engine, clock=lambda: scheduler.now_s) as host:
        assert [scheduler.schedule(), scheduler.advance(), scheduler.commit()] == ["a batch"] * 3
        assert engine.runner.launch("two") == "a step of two"
    scheduler.schedule()
    engine.runner.launch("three")
    assert (host.scheduling_s, host.launching_s) == (3, 4)
