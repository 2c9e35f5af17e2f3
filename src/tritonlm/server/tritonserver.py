"""A running tritonserver: its process, its addresses, its log."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tritonlm.errors import ServerCrashed, ServerLost, StartFailure
from tritonlm.server import log, processes
from tritonlm.server.repository import FRONT_END
from tritonlm.server.settings import ServerSettings

POLL_INTERVAL_S = 0.1
PROBE = {"text_input": "Hello", "max_tokens": 1}
PROBE_TIMEOUT_S = 120.0
STOP_MARGIN_S = 5.0
"""What a stopping server may take beyond its own timeout."""
CRASHES = (signal.SIGABRT, signal.SIGSEGV)
"""What ends a server that nobody has killed."""


class TritonServer:
    """A tritonserver that was started and is not yet known to be ready."""

    def __init__(
        self, process: subprocess.Popen[bytes], settings: ServerSettings, run_dir: Path,
        server_log: log.Log, report: Callable[[str], None],
    ) -> None:
        self.run_dir = run_dir
        self._process, self._settings, self._report = process, settings, report
        self._log = server_log
        self._stubs: dict[psutil.Process, str] = {}
        self._lost_model = ""

    @property
    def log_path(self) -> Path:
        """The file that the server and its models write their log to."""
        return self._log.path

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._process.pid

    @property
    def host(self) -> str:
        """A name under which this machine reaches the server."""
        return self._settings.reachable_host

    @property
    def http_url(self) -> str:
        """Base of the HTTP API."""
        return f"http://{self.host}:{self._settings.http_port}"

    @property
    def grpc_url(self) -> str:
        """Host and port of gRPC, as tritonclient wants it."""
        return f"{self.host}:{self._settings.grpc_port}"

    @property
    def metrics_url(self) -> str:
        """Page of the Prometheus metrics."""
        return f"http://{self.host}:{self._settings.metrics_port}/metrics"

    def wait_until_ready(self, has_models: bool = True) -> None:
        """Return once every model is loaded and one has answered; raises `StartFailure`.

        A server without `has_models` has none yet.
        """
        while not self._is_ready():
            self._show_log()
            self._check_alive()
            if self._log.failure:
                raise StartFailure(self._log.failure)
            time.sleep(POLL_INTERVAL_S)
        if has_models:
            self._probe()
        self._show_log()
        # Not `children()`: that leaves some out when the machine's clock is being set.
        self._stubs = {process: _model_of(process) for process in processes.find(self.run_dir)
                       if process.ppid() == self.pid}

    def watch(self) -> None:
        """Show what the server has to say until it, or a model's process, ends.

        Raises `ServerLost` then: tritonserver starts no model's process again, reports itself as
        ready without it, and never ends the requests that were there. So it is killed.
        """
        while True:
            self._show_log()
            try:
                self._check_alive()
            except StartFailure as failure:
                raise ServerLost(failure.message) from None
            ended = (model for stub, model in self._stubs.items() if _has_ended(stub))
            lost_model = self._lost_model or next(ended, "")
            if lost_model:
                self._process.kill()
                raise ServerLost(f"a process of model {lost_model} has ended")
            time.sleep(POLL_INTERVAL_S)

    def lose(self, model: str) -> None:
        """Have `watch` end as for a model that has lost a process; any thread may call it."""
        self._lost_model = model

    def stop(self) -> None:
        """Let running requests finish, for as long as the settings say, and end the process."""
        self._process.send_signal(signal.SIGTERM)
        deadline_s = time.monotonic() + self._settings.triton_exit_timeout_s + STOP_MARGIN_S
        while self._process.poll() is None and time.monotonic() < deadline_s:
            self._show_log()
            time.sleep(POLL_INTERVAL_S)
        self._process.kill()
        self._process.wait()
        self._show_log()
        self._log.close()

    def _show_log(self) -> None:
        for line in self._log.new_lines():
            shown = line if self._settings.verbose else log.progress(line)
            if shown is not None:
                self._report(shown)

    def _check_alive(self) -> None:
        status = self._process.poll()
        if status is None:
            return
        self._show_log()
        if self._log.failure:
            raise StartFailure(self._log.failure)
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit code {status}"
        kind = ServerCrashed if -status in CRASHES else StartFailure
        raise kind(f"tritonserver ended with {how}")

    def _is_ready(self) -> bool:
        try:
            return self._request("GET", "/v2/health/ready", timeout_s=1.0)[0] == http.HTTPStatus.OK
        except OSError:
            return False

    def _probe(self) -> None:
        """One short inference: a model can be ready for Triton, and yet fail every request."""
        path = f"/v2/models/{FRONT_END}/generate"
        try:
            status, answer = self._request("POST", path, json.dumps(PROBE), PROBE_TIMEOUT_S)
        except OSError as error:
            raise StartFailure(f"the first inference got no answer: {error}") from None
        if status != http.HTTPStatus.OK:
            raise StartFailure(f"the first inference failed: {answer}")

    def _request(
        self, method: str, path: str, body: str | None = None, timeout_s: float = 1.0
    ) -> tuple[int, str]:
        connection = http.client.HTTPConnection(self.host, self._settings.http_port, timeout_s)
        try:
            connection.request(method, path, body, {"Connection": "close"})
            response = connection.getresponse()
            return response.status, response.read().decode(errors="replace")
        finally:
            connection.close()


def _has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _model_of(stub: psutil.Process) -> str:
    """The model that a stub runs; its first argument is `.../NAME/1/model.py`."""
    return Path(stub.cmdline()[1]).parts[-3]
