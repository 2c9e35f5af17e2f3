"""`tritonlm serve` as a process, and what must be left of it: nothing."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil

from tritonlm.server import processes, run_directory

TRITONLM = str(Path(sys.executable).parent / "tritonlm")
SMALL = ["--device", "cpu", "--kv-cache-gib", "0.1", "--front-ends", "1"]
FREE_PORTS = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
ANNOUNCED = "Ctrl-C stops the server"
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
        return self._process.is_running() and self._process.status() != psutil.STATUS_ZOMBIE

    @property
    def http_url(self) -> str:
        return re.search(r"HTTP +(\S+)", self.output)[1]

    @property
    def metrics_url(self) -> str:
        return re.search(r"metrics +(\S+)", self.output)[1]

    def wait_for(self, text: str, number: int = 1) -> None:
        """Return when `text` has been said `number` times."""
        while self.output.count(text) < number:
            assert self.is_running, self.output
            time.sleep(0.05)

    def tritonserver(self) -> psutil.Process:
        """The server's process, once it is there."""
        while self.is_running:
            for child in self._process.children():
                with suppress(psutil.NoSuchProcess):  # one that was only there to look
                    if processes.RUN_DIR_VARIABLE in child.environ():
                        return child
            time.sleep(0.05)
        raise AssertionError(self.output)

    def stub(self, model: str) -> psutil.Process:
        """A process of a model."""
        return next(child for child in self.tritonserver().children()
                    if f"/{model}/" in child.cmdline()[1])

    def run_dir(self) -> Path:
        return Path(self.tritonserver().environ()[processes.RUN_DIR_VARIABLE])

    def end(self, *signals: signal.Signals) -> int:
        """Send `signals`, and give the exit code."""
        for number in signals:
            self._process.send_signal(number)
            time.sleep(0.5)
        code = self._process.wait(END_TIMEOUT_S)
        self._reader.join(END_TIMEOUT_S)
        return code

    def _read(self) -> None:
        for line in self._process.stdout:
            self.output += line


def assert_nothing_is_left(run_dir: Path) -> None:
    deadline_s = time.monotonic() + 15
    while run_dir.exists() and time.monotonic() < deadline_s:  # a killed launcher does not wait
        time.sleep(0.1)
    assert not run_dir.exists()
    assert processes.find(run_dir) == set()
    prefix = run_directory.RunDirectory(run_dir, -1).shared_memory_prefix
    assert not list(run_directory.SHARED_MEMORY.glob(f"{prefix}*"))
