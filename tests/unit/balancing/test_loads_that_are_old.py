"""Servers are looked at once a second: what they are given meanwhile counts at once."""

from __future__ import annotations

import random

import pytest

from tritonlm_client.balancing.load import Load
from tritonlm_client.balancing.member import Member, choose_member

QUICK = Load(num_running=4, first_token_s=0.010)
SLOW = Load(num_running=4, first_token_s=0.011)
NUM_REQUESTS = 40


class Server(Member):
    """Takes requests and ends none."""

    num_unfinished = 0


@pytest.mark.parametrize("policy", ["urgent", "batch"])
def test_a_burst_between_two_looks_is_spread(policy):
    servers = [Server("quick"), Server("slow")]
    servers[0].load, servers[1].load = QUICK, SLOW
    for _ in range(NUM_REQUESTS):
        choose_member(servers, policy, b"", random.Random(1)).num_unfinished += 1
    assert min(server.num_unfinished for server in servers) >= NUM_REQUESTS / 3


def test_what_the_next_look_has_seen_does_not_count_twice():
    servers = [Server("quick"), Server("slow")]
    servers[0].load, servers[1].load = QUICK, SLOW
    servers[0].num_unfinished = 4
    assert choose_member(servers, "urgent", b"", random.Random(1)).name == "slow"
    servers[0].load = Load(num_running=8, first_token_s=0.010)
    assert choose_member(servers, "urgent", b"", random.Random(1)).name == "quick"
