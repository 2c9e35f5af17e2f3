"""Processes of containers as manifests start them, here, with what an image has around them."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tests import images
from tests.manifests import Container

IMAGES = {"tritonlm": "server", "tritonlm-gateway": "gateway"}
"""Stages of the Dockerfile, by what manifests call them."""
START_TIMEOUT_S = 100
STOP_TIMEOUT_S = 60
SCRATCH = tempfile.gettempdir()
IN_NAMESPACE = ("unshare", "--mount", "--map-root-user", "--propagation", "private")
READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,ro,bind / && exec "$@"'


class Process:
    """A container's process; lines of its output are read as they come."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str]) -> None:
        self.lines: list[str] = []
        self._process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE,
                                         stderr=subprocess.STDOUT, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, text: str) -> str:
        """The first line with `text` in it."""
        due_s = time.monotonic() + START_TIMEOUT_S
        while not (found := [line for line in self.lines if text in line]):
            assert self._process.poll() is None, "".join(self.lines)
            assert time.monotonic() < due_s, "".join(self.lines)
            time.sleep(0.05)
        return found[0]

    @property
    def pid(self) -> int:
        return self._process.pid

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def wait(self, timeout_s: float) -> int:
        """Its exit code; all its lines are there then."""
        code = self._process.wait(timeout_s)
        self._reader.join(timeout_s)
        return code

    def end(self) -> None:
        if self._process.poll() is None:
            self.terminate()
            try:
                self.wait(STOP_TIMEOUT_S)
            finally:
                self._process.kill()

    def _read(self) -> None:
        assert self._process.stdout is not None
        self.lines.extend(iter(self._process.stdout.readline, ""))


@contextmanager
def started(
    container: Container, prefix: Path, **changed: str
) -> Iterator[tuple[Process, dict[str, str]]]:
    """The container's process: its command or else the image's entry point, and its arguments."""
    stage = images.stages()[IMAGES[container.image]]
    environ = images.environ_of(stage, prefix) | container.environ | changed
    entry = container.spec.get("command", stage.entrypoint)
    arguments = container.spec.get("args", [] if "command" in container.spec else stage.command)
    process = Process([*_read_only(container), *entry, *arguments], environ)
    try:
        yield process, environ
    finally:
        process.end()


def _read_only(container: Container) -> Sequence[str]:
    """What starts a command where it can write to scratch and shared memory alone."""
    wanted = container.spec["securityContext"]["readOnlyRootFilesystem"]
    return [*IN_NAMESPACE, "sh", "-c", READ_ONLY, SCRATCH] if wanted and can_confine() else []


@cache
def can_confine() -> bool:
    """Whether this machine lets us have mounts of our own."""
    return shutil.which("unshare") is not None and subprocess.run(
        [*IN_NAMESPACE, "true"], check=False, capture_output=True).returncode == 0


@contextmanager
def gateway_before(
    container: Container, prefix: Path, addresses: Mapping[str, str]
) -> Iterator[str]:
    """The URL of a gateway on a free port that looks that server up, and wants no keys."""
    ports = [addresses[name].removesuffix("/metrics").rpartition(":")[2]
             for name in ("metrics", "manager") if name in addresses]
    here = {"TRITONLM_GATEWAY_SERVERS": ":".join(["dns", addresses["grpc"], *ports]),
            "TRITONLM_GATEWAY_PORT": "0", "TRITONLM_GATEWAY_KEYS_FILE": ""}
    with started(container, prefix, **here) as (process, _):
        url = json.loads(process.wait_for('"message": "listening"'))["url"]
        yield url.replace("0.0.0.0", "localhost")
