import os
import signal
import stat
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from tritonlm.errors import StartFailure
from tritonlm.server import processes, run_directory


@pytest.fixture(autouse=True)
def base(monkeypatch, tmp_path_factory):
    """Where run directories are made for the test: a short path, as sockets need."""
    tmp_path_factory.getbasetemp()  # pytest's own are not to be in there
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder) / f"tritonlm-{os.getuid()}"


@pytest.fixture
def run():
    run = run_directory.create()
    yield run
    os.close(run.lock)


def test_a_run_has_a_folder_of_its_own_that_others_cannot_read(base, run):
    assert run.path.parent == base
    for folder in (base, run.path):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_nothing_is_left_after_removal_shared_memory_included(run):
    memory = run_directory.SHARED_MEMORY / f"{run.shared_memory_prefix}region"
    memory.write_text("")
    (run.path / "folder").mkdir()
    run_directory.remove(run.path)
    assert not run.path.exists()
    assert not memory.exists()


def test_what_a_dead_run_left_is_swept_by_the_next(run):
    dead = run_directory.create()
    os.close(dead.lock)
    memory = run_directory.SHARED_MEMORY / f"{dead.shared_memory_prefix}region"
    memory.write_text("")
    os.close(run_directory.create().lock)
    assert not dead.path.exists()
    assert not memory.exists()
    assert run.path.exists()


def test_orphans_of_a_run_whose_launcher_and_reaper_were_killed_are_ended(run):
    dead = run_directory.create()
    environ = os.environ | {processes.RUN_DIR_VARIABLE: str(dead.path)}
    with subprocess.Popen(["sleep", "100"], env=environ) as orphan:
        while not processes.find(dead.path):  # at first it has no environment to be known by
            time.sleep(0.01)
        os.close(dead.lock)
        os.close(run_directory.create().lock)
        assert orphan.wait(10) == -signal.SIGTERM
    assert not dead.path.exists()


def test_folders_of_other_programs_are_left_alone(base, run):
    (base / "other").mkdir()
    os.close(run_directory.create().lock)
    assert (base / "other").exists()


def test_a_kept_log_stays_for_a_day(run):
    run.log.write_text("why")
    kept = run.keep_log()
    run_directory.remove(run.path)
    os.close(run_directory.create().lock)
    assert kept.read_text() == "why"
    day_before = kept.stat().st_mtime - run_directory.KEPT_LOG_AGE_S - 1
    os.utime(kept, (day_before, day_before))
    os.close(run_directory.create().lock)
    assert not kept.exists()


def test_a_temporary_folder_too_long_for_sockets_is_named(monkeypatch, tmp_path):
    long = tmp_path / ("x" * 80)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with pytest.raises(StartFailure, match=r"^TMPDIR: .* is too long for the paths of sockets$"):
        run_directory.create()
    assert not list(long.glob("*/*/*"))


def test_a_temporary_folder_that_is_none_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(StartFailure, match=r"No such file or directory; TMPDIR may name another"):
        run_directory.create()
