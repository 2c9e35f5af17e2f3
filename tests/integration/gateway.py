"""A real gateway in a process of its own, on a free port, before servers that run already."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tritonlm_client import Client

COMMAND = str(Path(sys.executable).parent / "tritonlm")
STOP_TIMEOUT_S = 60


@contextmanager
def running_gateway(servers: str, *options: str, log: IO[str] | None = None) -> Iterator[str]:
    """The base of its URLs; it is stopped, and must end without a fault."""
    process = subprocess.Popen([COMMAND, "gateway", "--port", "0", "--servers", servers, *options],
                               stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, "the gateway has ended"
        yield (json.loads(line)["url"] if line.startswith("{")
               else line.removeprefix("gateway:").strip())
    finally:
        process.terminate()
        try:
            status = process.wait(STOP_TIMEOUT_S)
        finally:
            process.kill()
    assert status in {0, -15}


def address_of(server: Any) -> str:
    """What `--servers` takes."""
    return f"{server.grpc_url}:{server.metrics_url.rsplit(':', 1)[1].removesuffix('/metrics')}"


def direct_text(server: Any, prompt: str, **options: Any) -> str:
    """The answer of a server to `prompt`, without a gateway."""
    with Client(server.grpc_url) as client:
        return client.generate(prompt, **options).text


def post(url: str, body: Any, headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
    """Status and JSON of an answer; `body` is sent as it is if it is bytes."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json",
                                                 **(headers or {})})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def get(url: str) -> tuple[int, bytes]:
    """Status and body."""
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
