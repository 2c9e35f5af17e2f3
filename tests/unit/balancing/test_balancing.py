"""Loads from pages of metrics, choices by policy, ejection and return."""

import random
from collections import Counter

import pytest

from tritonlm.options import PRIORITIES
from tritonlm_client.balancing.health import MAX_EJECTION_S, Health
from tritonlm_client.balancing.load import Load, LoadMeter
from tritonlm_client.balancing.policy import BY_PRIORITY, POLICIES, Candidate, choose

PAGE = """
# HELP tritonlm_requests_running Requests in the engine's batch
tritonlm_requests_running{{engine="0",model="generate"}} {running}
tritonlm_requests_running{{engine="1",model="generate"}} 1
tritonlm_requests_waiting{{engine="0",model="generate"}} 3
tritonlm_kv_cache_usage_ratio{{engine="0"}} 0.25
tritonlm_kv_cache_usage_ratio{{engine="1"}} 0.5
tritonlm_time_to_first_token_seconds_sum{{front_end="a"}} {sum_s}
tritonlm_time_to_first_token_seconds_count{{front_end="a"}} {count}
tritonlm_requests_total{{outcome="finished",reason="stop"}} {good}
tritonlm_requests_total{{outcome="failed",reason="internal"}} {bad}
nv_inference_count{{model="generate"}} 17
"""


def page(running=2, sum_s=1.0, count=10, good=10, bad=0):
    return PAGE.format(running=running, sum_s=sum_s, count=count, good=good, bad=bad)


def picks(policy, candidates, number=400, prefix=b""):
    chance = random.Random(0)
    counts = Counter(choose(policy, candidates, prefix, chance) for _ in range(number))
    return [counts[place] for place in range(len(candidates))]


def test_a_page_is_read_over_all_engines():
    assert LoadMeter().read(page()) == Load(3, 3, 0.5)


def test_times_and_failures_are_those_since_the_last_page():
    meter = LoadMeter()
    meter.read(page())
    load = meter.read(page(sum_s=5.0, count=20, good=15, bad=5))
    assert load.first_token_s == pytest.approx(0.4)
    assert load.failed_share == pytest.approx(0.5)
    quiet = meter.read(page(sum_s=5.0, count=20, good=15, bad=5))
    assert (quiet.first_token_s, quiet.failed_share) == (load.first_token_s, 0)


def test_a_restarted_server_counts_from_its_start():
    meter = LoadMeter()
    meter.read(page(sum_s=100.0, count=1000, good=1000))
    assert meter.read(page(sum_s=1.0, count=10)).first_token_s is None


def test_a_page_of_something_else_is_an_idle_server():
    assert LoadMeter().read("<html>") == Load()


def test_urgent_takes_the_lowest_latency():
    candidates = [Candidate("a", Load(num_running=1, first_token_s=0.5)),
                  Candidate("b", Load(num_running=9, first_token_s=0.1)),
                  Candidate("c", Load(num_waiting=90, num_running=9, first_token_s=0.1))]
    assert picks("urgent", candidates) == [0, 400, 0]


def test_batch_takes_the_least_to_do_and_counts_its_own():
    candidates = [Candidate("a", Load(num_running=5)), Candidate("b", Load(), num_own=7),
                  Candidate("c", Load(num_waiting=1, num_running=5))]
    assert picks("batch", candidates) == [400, 0, 0]


def test_batch_avoids_a_full_cache_and_failures():
    busy = Load(num_running=10)
    candidates = [Candidate("full", Load(num_running=9, kv_usage=0.99)),
                  Candidate("failing", Load(num_running=9, failed_share=0.5)),
                  Candidate("well", busy)]
    assert picks("batch", candidates) == [0, 0, 400]


def test_normal_takes_all_and_the_idle_more_often():
    candidates = [Candidate("idle", Load(num_running=1, first_token_s=0.1)),
                  Candidate("half", Load(4, 8, 0.4, 0.2)), Candidate("busy", Load(8, 16, 0.8, 0.4))]
    counts = picks("normal", candidates)
    assert counts[0] > counts[1] > counts[2] > 0


@pytest.mark.parametrize("policy", POLICIES)
def test_equals_share(policy):
    assert min(picks(policy, [Candidate(name, Load()) for name in "abc"])) > 90


@pytest.mark.parametrize("policy", POLICIES)
def test_one_prefix_goes_to_one_server_and_many_are_spread(policy):
    candidates = [Candidate(name, Load()) for name in "abc"]
    chance = random.Random(0)
    places = [{choose(policy, candidates, b"prompt %d" % i, chance) for _ in range(5)}
              for i in range(60)]
    assert all(len(each) == 1 for each in places)
    assert min(Counter(place for each in places for place in each).values()) > 10


def test_only_the_prompts_of_a_server_that_is_gone_move():
    three = [Candidate(name, Load()) for name in "abc"]
    chance = random.Random(0)
    for i in range(50):
        prefix = b"prompt %d" % i
        before = choose("batch", three, prefix, chance)
        if before < 2:
            assert choose("batch", three[:2], prefix, chance) == before


def test_a_server_with_much_more_to_do_loses_its_prompts():
    idle = [Candidate("a", Load()), Candidate("b", Load())]
    home = choose("batch", idle, b"prompt", random.Random(0))
    busy = [Candidate(each.name, Load(num_running=50 if place == home else 1))
            for place, each in enumerate(idle)]
    assert choose("batch", busy, b"prompt", random.Random(0)) == 1 - home


def test_a_server_that_is_not_known_yet_is_tried():
    known, new = Candidate("a", Load(first_token_s=0.001)), Candidate("b", Load())
    assert min(picks("normal", [known, new])) > 100
    assert min(picks("urgent", [known, new])) > 100


def test_every_priority_has_a_policy():
    assert set(BY_PRIORITY) == set(PRIORITIES)
    assert set(BY_PRIORITY.values()) == set(POLICIES)


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


def test_failures_in_a_row_eject_and_time_brings_back():
    clock = Clock()
    health = Health(clock)
    for _ in range(2):
        health.fail()
    health.succeed()
    for _ in range(2):
        health.fail()
    assert not health.is_ejected
    health.fail()
    assert health.is_ejected
    clock.now_s = 1.0
    assert not health.is_ejected


def test_a_server_that_goes_on_failing_stays_away_longer_and_longer():
    clock = Clock()
    health = Health(clock)
    for _ in range(3):
        health.fail()
    spells_s = []
    for _ in range(8):
        start_s = clock.now_s
        while health.is_ejected:
            clock.now_s += 0.5
        spells_s.append(clock.now_s - start_s)
        health.fail()
    assert spells_s == [1, 2, 4, 8, 16, 32, MAX_EJECTION_S, MAX_EJECTION_S]
    while health.is_ejected:
        clock.now_s += 0.5
    health.succeed()
    health.fail()
    assert not health.is_ejected


def test_the_first_request_after_an_ejection_is_a_trial_and_others_wait_for_it():
    clock = Clock()
    health = Health(clock)
    for _ in range(3):
        health.fail()
    clock.now_s = 1.0
    health.begin()
    assert health.is_ejected
    health.fail()
    clock.now_s = 2.9
    assert health.is_ejected
    clock.now_s = 3.0
    health.begin()
    health.succeed()
    assert not health.is_ejected
