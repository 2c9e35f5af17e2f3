"""`tritonlm serve` as a process, and what must be left of it: nothing."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import psutil

from tests.drills.processes import has_ended
from tritonlm.server import processes, run_directory

Value = TypeVar("Value")
TRITONLM = str(Path(sys.executable).parent / "tritonlm")
SMALL = ["--device", "cpu", "--kv-cache-gib", "0.1", "--front-ends", "1"]
FREE_PORTS = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
ANNOUNCED = "Ctrl-C stops the server"
START_TIMEOUT_S = 100
END_TIMEOUT_S = 60


class Serve:
    """A `tritonlm serve`, its output read as it comes."""

    def __init__(self, *options: str, prefix: tuple[str, ...] = ()) -> None:
        self._process = psutil.Popen([*prefix, TRITONLM, "serve", *SMALL, *FREE_PORTS, *options],
                                     stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.pid = self._process.pid
        self.output = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def is_running(self) -> bool:
        return not has_ended(self._process)

    @property
    def http_url(self) -> str:
        return re.search(r"HTTP +(\S+)", self.output)[1]

    @property
    def metrics_url(self) -> str:
        return re.search(r"metrics +(\S+)", self.output)[1]

    def wait_for(self, text: str, number: int = 1) -> None:
        """Return when `text` has been said `number` times."""
        self.wait_until(lambda: self.output.count(text) >= number)

    def wait_until(self, read: Callable[[], Value]) -> Value:
        """What `read` gives once that is anything: while the server runs, and before long."""
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not (found := read()):
            assert self.is_running, self.output
            assert time.monotonic() < deadline_s, self.output
            time.sleep(0.05)
        return found

    def tritonserver(self) -> psutil.Process:
        """The server's process, once it is there."""
        return self.wait_until(self._tritonservers)[0]

    def stub(self, model: str) -> psutil.Process:
        """A process of a model."""
        server = self.tritonserver()
        return next(process for process in processes.find(self.run_dir())
                    if process.ppid() == server.pid and f"/{model}/" in process.cmdline()[1])

    def run_dir(self) -> Path:
        return Path(self.tritonserver().environ()[processes.RUN_DIR_VARIABLE])

    def end(self, *signals: signal.Signals) -> int:
        """Send `signals`, and give the exit code; what does not end by them is killed."""
        for number in signals:
            self._process.send_signal(number)
            time.sleep(0.5)
        try:
            code = self._process.wait(END_TIMEOUT_S)
        except psutil.TimeoutExpired:
            self._process.kill()  # its reaper ends the others
            raise
        self._reader.join(END_TIMEOUT_S)
        return code

    def _tritonservers(self) -> list[psutil.Process]:
        """Its only child in a run's environment, once it is there."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):  # one that is gone already
                if (process.ppid() == self.pid
                        and processes.RUN_DIR_VARIABLE in process.environ()):
                    found.append(process)
        return found

    def _read(self) -> None:
        for line in self._process.stdout:
            self.output += line


def assert_nothing_is_left(run_dir: Path) -> None:
    deadline_s = time.monotonic() + END_TIMEOUT_S
    while run_dir.exists() and time.monotonic() < deadline_s:  # a killed launcher does not wait
        time.sleep(0.1)
    assert not run_dir.exists()
    assert processes.find(run_dir) == set()
    prefix = run_directory.RunDirectory(run_dir, -1).shared_memory_prefix
    assert not list(run_directory.SHARED_MEMORY.glob(f"{prefix}*"))
