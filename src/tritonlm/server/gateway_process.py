"""A gateway beside the server: a process of its own, which finds the server again by itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonlm.backoff import Backoff
from tritonlm.config import DEMO_CHECKPOINT
from tritonlm.errors import InvalidArgument, StartFailure
from tritonlm.logs import PREFIX
from tritonlm.server import ports
from tritonlm.server.settings import MAX_PORT, ServerSettings

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
POLL_INTERVAL_S = 0.05
FIRST_PAUSE_S = 1.0


@dataclass(frozen=True)
class GatewayStart:
    """Whether a gateway is started beside the server."""

    gateway_port: int | None = None
    """Port of an OpenAI-compatible gateway, 0 for any free one; unset, none is started."""

    def __post_init__(self) -> None:
        """Raise `InvalidArgument` for a port that does not exist."""
        if self.gateway_port is not None and not 0 <= self.gateway_port <= MAX_PORT:
            raise InvalidArgument("gateway_port", self.gateway_port, f"allowed: 0 to {MAX_PORT}")

    def choose_port(self, server: ServerSettings) -> int | None:
        """The port, which is free and not `server`'s; raises `StartFailure` if it is not so."""
        if self.gateway_port is None:
            return None
        taken = {"--http-port": server.http_port, "--grpc-port": server.grpc_port,
                 "--metrics-port": server.metrics_port}
        return ports.choose(server.host, taken | {"--gateway-port": self.gateway_port})[
            "--gateway-port"]


@contextmanager
def running(
    port: int, server: ServerSettings, model: str | None, workers: int = 1,
    log_format: str = "text", manager_port: int | None = None,
    report: Callable[[str], None] = print, **others: Any,
) -> Iterator[str]:
    """The URL of a gateway that is ready, gone when the context ends; raises `StartFailure`.

    `model` is what `generate` has loaded; None for a server whose models have names of their own.
    `others` are further settings of the gateway. One that ends of itself is started again, and
    `report` gets a line.
    """
    ports_of_server = [server.grpc_port, server.metrics_port, *filter(None, [manager_port])]
    settings = {
        "servers": ":".join(map(str, [server.reachable_host, *ports_of_server])),
        "host": server.host, "port": port,
        "model_names": f"{_name_of(model)}=generate" if model else "",
        "workers": workers, "access_log": False, "drain_timeout_s": server.exit_timeout_s,
        "log_format": log_format, **others,
    }
    gateway = _KeptGateway(settings, report)
    try:
        url = f"http://{server.reachable_host}:{port}"
        _wait_until_ready(url, gateway.process)
        gateway.keep()
        yield url
    finally:
        gateway.stop(server.exit_timeout_s + STOP_TIMEOUT_S)


class _KeptGateway:
    """A gateway's process, and the one after it."""

    def __init__(self, settings: Mapping[str, Any], report: Callable[[str], None]) -> None:
        self._command = [sys.executable, "-m", "tritonlm.gateway", json.dumps(settings),
                         str(os.getpid())]
        self._report = report
        self._starting = threading.Lock()
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="gateway keeper", daemon=True)
        self.process = self._start()

    def keep(self) -> None:
        """From now on start it again when it ends."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Let it finish what it has begun, for that time."""
        with self._starting:
            self._is_stopping.set()
        self.process.terminate()
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self._thread.ident is not None:
            self._thread.join()

    def _start(self) -> subprocess.Popen[bytes]:
        # A terminal's Ctrl-C is for the launcher.
        return subprocess.Popen(self._command, start_new_session=True)

    def _keep(self) -> None:
        backoff = Backoff(FIRST_PAUSE_S)
        while True:
            began_s = time.monotonic()
            code = self.process.wait()
            pause_s = backoff.pause_s(time.monotonic() - began_s)
            if not self._is_stopping.is_set():
                self._report(f"{PREFIX}the gateway ended with exit code {code}; starting it "
                             f"again in {pause_s:g} s")
            self._is_stopping.wait(pause_s)
            with self._starting:
                if self._is_stopping.is_set():
                    return
                self.process = self._start()


def _wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    due_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < due_s:
        if process.poll() is not None:
            raise StartFailure(f"the gateway ended with exit code {process.returncode}")
        try:
            with urllib.request.urlopen(f"{url}/health/ready", timeout=POLL_INTERVAL_S * 20):
                return
        except OSError:
            time.sleep(POLL_INTERVAL_S)
    raise StartFailure(f"the gateway was not ready within {START_TIMEOUT_S:g} s")


def _name_of(model: str) -> str:
    """What clients may call a model: its hub id, or the name of its folder."""
    if Path(model) == DEMO_CHECKPOINT:
        return "demo"
    return Path(model).name if Path(model).exists() else model
