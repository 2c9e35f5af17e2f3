import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.drills.waiting import LIMIT_S, until

from tritonlm.server import processes, reaper, run_directory

LAUNCHER = """
import os, subprocess, sys
from tritonlm.server import processes, reaper, run_directory
run = run_directory.create()
environ = os.environ | {processes.RUN_DIR_VARIABLE: str(run.path)}
with reaper.guard(run):
    subprocess.Popen(["sleep", "300"], env=environ, start_new_session=True)
    print(run.path, flush=True)
    sys.stdin.read()
"""

POLITE = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # it is not lost while nobody waits
print(flush=True)
signal.sigwait({signal.SIGTERM})
print("goodbye")
"""


def start_process(run_dir, *command):
    """A process of a run, in a session of its own as an engine might be."""
    environ = os.environ | {processes.RUN_DIR_VARIABLE: str(run_dir)}
    return subprocess.Popen(command, env=environ, start_new_session=True, stdout=subprocess.PIPE)


@pytest.fixture
def run():
    run = run_directory.create()
    yield run
    for process in processes.find(run.path):
        process.kill()
    run_directory.remove(run.path)


def test_the_processes_of_a_run_are_found_by_their_environment(run):
    process = start_process(run.path, "sleep", "300")
    with start_process(f"{run.path}x", "true"):
        assert {found.pid for found in processes.find(run.path)} == {process.pid}
    process.kill()
    process.wait(LIMIT_S)
    assert processes.find(run.path) == set()


def test_a_process_that_ignores_the_polite_signal_is_killed(run):
    process = start_process(run.path, "sh", "-c", "trap '' TERM; echo; while :; do sleep 1; done")
    process.stdout.readline()
    processes.stop(run.path, grace_s=0.2)
    assert processes.find(run.path) == set()


def test_a_process_may_end_politely(run):
    process = start_process(run.path, sys.executable, "-c", POLITE)
    process.stdout.readline()
    processes.stop(run.path, grace_s=10)
    assert process.stdout.read() == b"goodbye\n"


def test_nothing_of_a_run_outlives_its_guard(run):
    with reaper.guard(run):
        process = start_process(run.path, "sleep", "300")
        (run.path / "file").write_text("")
        assert process.poll() is None
    assert processes.find(run.path) == set()
    assert not run.path.exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_nothing_of_a_run_outlives_a_killed_launcher(number):
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER], stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, text=True)
    run_dir = Path(launcher.stdout.readline().strip())
    assert len(processes.find(run_dir)) == 1
    launcher.send_signal(number)
    launcher.wait(LIMIT_S)
    await until(lambda: not run_dir.exists(), "it is left")
    assert processes.find(run_dir) == set()
