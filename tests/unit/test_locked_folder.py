"""Folders that are locked while somebody holds them."""

import os
import tempfile

import pytest

from tritonlm import locked_folder


@pytest.fixture(autouse=True)
def temporary(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def base():
    with locked_folder.base_folder() as base:
        yield base


def test_who_leaves_last_deletes_it(base):
    path, lock = locked_folder.create(base)
    with locked_folder.held(path):
        locked_folder.leave(path, lock)
        assert path.exists()
    assert not path.exists()


def test_who_leaves_before_others_deletes_nothing(base):
    path, lock = locked_folder.create(base)
    with locked_folder.held(path):
        pass
    assert path.exists()
    locked_folder.leave(path, lock)


def test_what_nobody_holds_is_abandoned(base):
    (held, lock), (left, dead_lock) = (locked_folder.create(base, "a-") for _ in range(2))
    other, other_lock = locked_folder.create(base, "b-")
    os.close(dead_lock)
    os.close(other_lock)
    assert list(locked_folder.abandoned(base, "a-")) == [left]
    assert set(locked_folder.abandoned(base)) == {left, other}
    locked_folder.leave(held, lock)


def test_a_folder_that_its_holder_deletes_meanwhile_is_none(base, monkeypatch):
    path, lock = locked_folder.create(base)
    found = list(base.glob(f"*/{locked_folder.LOCK_NAME}"))
    locked_folder.leave(path, lock)
    monkeypatch.setattr(type(base), "glob", lambda *_: found)
    assert list(locked_folder.abandoned(base)) == []
