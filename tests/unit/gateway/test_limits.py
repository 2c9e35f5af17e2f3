"""Limits of keys, counted for all workers together."""

import subprocess
import sys

import pytest

from tritonlm.errors import InvalidArgument
from tritonlm.gateway.failures import TooManyRequests, Unauthorized, error_headers
from tritonlm.gateway.keys import ApiKey, KeyRing, hashed, new_key
from tritonlm.gateway.limits import Limits

ALICE = ApiKey("alice", requests_per_minute=60)
BOB = ApiKey("bob", max_concurrent=2)
FREE = ApiKey("free")
KEYS = [ALICE, BOB, FREE]


class Clock:
    now_s = 1000.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def limits(tmp_path, clock):
    return Limits(KEYS, tmp_path / "limits", clock)


def test_a_rate_is_a_bucket_that_fills_up_within_a_minute(limits, clock):
    for _ in range(60):
        limits.enter(ALICE)
    with pytest.raises(TooManyRequests, match="60 requests a minute") as refusal:
        limits.enter(ALICE)
    assert refusal.value.retry_after_s == pytest.approx(1)
    clock.now_s += 2
    for _ in range(2):
        limits.enter(ALICE)
    with pytest.raises(TooManyRequests):
        limits.enter(ALICE)


def test_who_waits_as_long_as_is_said_is_let_in():
    assert error_headers(TooManyRequests("too many", 10.4)) == {"retry-after": "11"}


def test_what_runs_at_once_is_bounded_and_comes_free(limits):
    limits.enter(BOB)
    limits.enter(BOB)
    with pytest.raises(TooManyRequests, match="2 requests of this key are running"):
        limits.enter(BOB)
    limits.leave(BOB)
    limits.enter(BOB)


def test_keys_count_apart_and_some_have_no_limit(limits):
    for _ in range(1000):
        limits.enter(FREE)
    limits.enter(BOB)
    limits.enter(ALICE)


OTHER_WORKER = """
import sys
from pathlib import Path
from tests.unit.gateway.test_limits import BOB, KEYS
from tritonlm.gateway.limits import Limits
limits = Limits(KEYS, Path(sys.argv[1]))
limits.enter(BOB)
print("entered", flush=True)
sys.stdin.read()
"""


def test_workers_count_together_and_a_dead_ones_place_is_taken_over(limits, tmp_path):
    def worker():
        process = subprocess.Popen([sys.executable, "-c", OTHER_WORKER, tmp_path / "limits"],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"entered\n"
        return process

    first = worker()
    limits.enter(BOB)
    with pytest.raises(TooManyRequests):
        limits.enter(BOB)
    first.kill()
    first.wait()
    limits.leave(BOB)
    second = worker()  # takes over the column of the first, whose request is gone
    limits.enter(BOB)
    with pytest.raises(TooManyRequests):
        limits.enter(BOB)
    second.kill()
    second.wait()


def test_a_key_is_found_by_its_hash_alone(tmp_path):
    key = new_key()
    path = tmp_path / "keys.json"
    path.write_text(f'{{"keys": [{{"name": "a", "sha256": "{hashed(key)}"}}]}}')
    ring = KeyRing.load(path)
    assert ring.find(key).name == "a"
    assert key not in path.read_text()
    for other in ("", hashed(key), key + "x"):
        with pytest.raises(Unauthorized):
            ring.find(other)


@pytest.mark.parametrize("text", [
    "", "[]", '{"keys": [{"name": "a"}]}', '{"keys": [{"name": "a", "sha256": "x"}]}',
    '{"keys": [{"name": "a", "sha256": "' + "0" * 64 + '", "nonsense": 1}]}',
    '{"keys": [{"name": "a", "sha256": "' + "0" * 64 + '", "max_concurrent": 0}]}',
    '{"keys": [{"name": "a", "sha256": "' + "0" * 64 + '", "priority": "king"}]}',
    '{"keys": [{"name": "a", "sha256": "' + "0" * 64 + '"}, {"name": "a", "sha256": "'
    + "1" * 64 + '"}]}',
])
def test_a_bad_file_of_keys_is_refused(tmp_path, text):
    path = tmp_path / "keys.json"
    path.write_text(text)
    with pytest.raises(InvalidArgument, match="keys_file: "):
        KeyRing.load(path)
    with pytest.raises(InvalidArgument, match="keys_file: "):
        KeyRing.load(tmp_path / "none.json")


def test_a_keys_priority_is_default_and_highest():
    key = ApiKey("k", priority="normal")
    assert key.applied_to({})["priority"] == "normal"
    assert key.applied_to({"priority": "low", "user": "u"}) == {"priority": "low", "user": "k/u"}
    with pytest.raises(InvalidArgument, match="priority: 'urgent' is not allowed"):
        key.applied_to({"priority": "urgent"})
