"""Keeps an engine process running: one front end of a model does, whichever takes the lock."""

from __future__ import annotations

import logging
import math
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from tritonlm.backend.vigil import Vigil
from tritonlm.backend.vital import vital_thread
from tritonlm.backoff import Backoff
from tritonlm.config import ModelConfig
from tritonlm.engine import worker_command
from tritonlm.engine.endpoint import Endpoint

LOG = logging.getLogger(__name__)
LOCK_INTERVAL_S = 0.1
WATCH_INTERVAL_S = 0.2
TAKEOVER_DELAY_S = 0.5
"""After an orderly goodbye: the server is probably stopping this front end too."""
FIRST_PAUSE_S = 0.1
STOP_TIMEOUT_S = 5.0


class EngineKeeper:
    """A thread that starts an engine, waits for its end and starts it again, with back-off.

    An engine that hangs is killed. It dies with this thread, so also when its process is killed.
    """

    def __init__(self, config: ModelConfig, endpoint: Endpoint, index: int) -> None:
        self._config = config
        self._index = index
        self._endpoint = endpoint.engine(index)
        self._command = worker_command.command(self._endpoint, config, _python(), index)
        self._is_stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._not_before_s = 0.0
        self._backoff = Backoff(FIRST_PAUSE_S)
        self._ready_s = math.inf
        """When the engine came up, on the monotonic clock; infinity: it has not."""
        self._thread = vital_thread(self._run, "engine keeper")
        self.num_starts = 0

    def start(self) -> None:
        """Begin to compete for the lock."""
        self._thread.start()

    def ask_to_stop(self) -> None:
        """Tell the engine to end if it is ours; `stop` waits for it."""
        self._is_stopping.set()
        process = self._process
        if process is not None:
            process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """End the engine if it is ours, and the thread."""
        self.ask_to_stop()
        self._thread.join(STOP_TIMEOUT_S)
        process = self._process
        if process is not None:
            process.kill()
        self._thread.join()

    def note_ready(self) -> None:
        """The engine has come up: should it end, requests wait for the next one."""
        self._ready_s = time.monotonic()

    def note_goodbye(self) -> None:
        """The engine was told to stop: do not rush to start another."""
        self._not_before_s = time.monotonic() + TAKEOVER_DELAY_S

    def _run(self) -> None:
        while not self._is_stopping.wait(LOCK_INTERVAL_S):
            if time.monotonic() < self._not_before_s:
                continue
            lock = self._endpoint.try_lock()
            if lock is None:
                continue
            try:
                self._keep()
            finally:
                os.close(lock)

    def _keep(self) -> None:
        """Run engines one after the other while this front end lives."""
        while not self._is_stopping.is_set():
            self.num_starts += 1
            started_s = time.time()
            self._ready_s = math.inf
            self._endpoint.heartbeat.unlink(missing_ok=True)
            reason = f"engine {self._index} {self._run_engine()}"
            if self._is_stopping.is_set():
                return
            if self._ready_s == math.inf and self._endpoint.read_failure(started_s) is None:
                self._endpoint.write_failure(reason)
            pause_s = self._backoff.pause_s(time.monotonic() - self._ready_s)
            LOG.warning(f"{reason}; starting another in {pause_s:.1f} s")
            self._is_stopping.wait(pause_s)

    def _run_engine(self) -> str:
        """Return when an engine has ended, or cannot be started; says how."""
        try:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)
        except OSError as error:  # no memory, perhaps, or too many processes
            return f"cannot be started: {error}"
        if self._is_stopping.is_set():
            self._process.terminate()
        end = self._wait(self._process)
        self._process = None
        return end

    def _wait(self, process: subprocess.Popen[bytes]) -> str:
        """Return when the process has ended, of itself or because it hung; says how."""
        vigil = Vigil(self._endpoint.heartbeat, self._config, WATCH_INTERVAL_S)
        descriptor = os.pidfd_open(process.pid)
        try:
            ended = select.poll()
            ended.register(descriptor, select.POLLIN)
            while not ended.poll(1000 * WATCH_INTERVAL_S):
                complaint = vigil.look()
                if complaint:
                    process.kill()
                    process.wait()
                    return complaint
        finally:
            os.close(descriptor)
        return f"ended with {_describe(process.wait())}"


def _describe(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    hint = ", perhaps of the system, which had no memory left" if -code == signal.SIGKILL else ""
    return f"{signal.Signals(-code).name}{hint}"


def _python() -> str:
    """The interpreter whose packages this process uses: in a stub `sys.executable` is another."""
    mine = Path(sys.prefix, "bin", "python3")
    return str(mine) if mine.exists() else shutil.which("python3") or sys.executable
