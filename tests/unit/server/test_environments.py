"""Folders that the Python backend leaves behind."""

from __future__ import annotations

import psutil
import pytest

from tritonlm.server import environments


@pytest.fixture
def folders(tmp_path):
    for name in ("python_env_a", "python_env_b", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "python_env_b" / "bin").mkdir()
    return tmp_path


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_empty_ones_are_deleted_and_nothing_else(folders, monkeypatch):
    monkeypatch.setattr(environments, "SERVER_NAME", "no such process")
    environments.sweep(folders)
    assert names(folders) == {"python_env_b", "other"}


def test_none_is_deleted_while_a_server_runs(folders, monkeypatch):
    monkeypatch.setattr(environments, "SERVER_NAME", psutil.Process().name())
    environments.sweep(folders)
    assert names(folders) == {"python_env_a", "python_env_b", "other"}
