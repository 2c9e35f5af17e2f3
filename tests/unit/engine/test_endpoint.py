"""Where the processes of a model meet."""

from __future__ import annotations

import os
import tempfile

import pytest

from tritonlm.engine.endpoint import Endpoint


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"tritonlm-{os.getuid()}"


def test_front_ends_of_a_server_meet_in_a_private_folder(base):
    endpoint = Endpoint.of(None, "generate", "1")
    assert endpoint == Endpoint.of(None, "generate", "1")
    assert endpoint.folder == base / f"server-{os.getppid()}" / "generate-1"
    assert endpoint.folder.stat().st_mode & 0o777 == 0o700


def test_folders_of_servers_that_are_gone_are_deleted_and_no_others(base):
    for name in ("server-999999999", f"server-{os.getpid()}", "12345678"):
        (base / name / "generate-1").mkdir(parents=True)
    Endpoint.of(None, "generate", "1")
    assert {folder.name for folder in base.iterdir()} == {
        f"server-{os.getpid()}", f"server-{os.getppid()}", "12345678"}


def test_each_engine_has_an_address_of_its_own(tmp_path):
    endpoint = Endpoint.of(str(tmp_path), "generate", "1")
    addresses = {endpoint.engine(index).address for index in (0, 1, 0)}
    assert len(addresses) == 2


def test_one_process_at_a_time_has_the_lock(tmp_path):
    endpoint = Endpoint(tmp_path)
    lock = endpoint.try_lock()
    assert lock is not None
    assert endpoint.try_lock() is None
    os.close(lock)
    lock = endpoint.try_lock()
    assert lock is not None
    os.close(lock)


def test_a_failure_is_told_to_who_asks_about_that_time(tmp_path):
    endpoint = Endpoint(tmp_path)
    assert endpoint.read_failure(0.0) is None
    endpoint.write_failure("no memory")
    written_s = (tmp_path / "engine.failure").stat().st_mtime
    assert endpoint.read_failure(written_s - 1) == "no memory"
    assert endpoint.read_failure(written_s + 1) is None
