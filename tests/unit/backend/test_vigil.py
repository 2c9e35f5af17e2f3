"""Telling an engine that hangs from one that works."""

from __future__ import annotations

import pytest

from tritonlm.backend.vigil import Vigil
from tritonlm.config import ModelConfig
from tritonlm.engine import heartbeat
from tritonlm.engine.heartbeat import Heartbeat

CONFIG = ModelConfig(hang_timeout_s=2.0, engine_start_timeout_s=5.0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "heartbeat"


@pytest.fixture
def vigil(path):
    return Vigil(path, CONFIG, interval_s=1.0)


def looks(vigil, number):
    return [vigil.look() for _ in range(number)]


def test_beats_are_counted_for_all_to_see(path):
    heart = Heartbeat(path)
    assert heartbeat.read(path) == 0
    for count in (1, 2, 3):
        heart.beat()
        assert heartbeat.read(path) == count


def test_an_engine_that_starts_has_the_time_of_a_start(vigil):
    *early, late = looks(vigil, 6)
    assert early == [None] * 5
    assert "engine_start_timeout_s, 5 s" in late


def test_an_engine_that_moves_is_left_alone(vigil, path):
    heart = Heartbeat(path)
    for _ in range(10):
        heart.beat()
        assert looks(vigil, 2) == [None, None]


def test_an_engine_that_stands_still_is_found_out(vigil, path):
    Heartbeat(path).beat()
    *early, late = looks(vigil, 4)
    assert early == [None] * 3
    assert "hang_timeout_s, 2 s" in late


def test_a_new_engine_starts_with_a_file_of_its_own(vigil, path):
    heart = Heartbeat(path)
    for _ in range(5):
        heart.beat()
    assert looks(vigil, 3) == [None] * 3
    Heartbeat(path)
    assert looks(vigil, 5) == [None] * 5
