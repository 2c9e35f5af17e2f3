"""`tritonlm serve` with a gateway beside it: every example of the gateway's documents runs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.integration.gateway import get
from tests.serving import ANNOUNCED, Serve, assert_nothing_is_left

DOCS = Path(__file__).parents[2] / "docs"
BLOCKS = [block for name in ("gateway.md", "websocket.md")
          for block in re.findall(r"^```(python|sh)\n(.*?)^```$",
                                  (DOCS / name).read_text(encoding="utf-8"),
                                  re.DOTALL | re.MULTILINE)]


@pytest.fixture(scope="module")
def serve():
    server = Serve("--gateway-port", "0")
    server.wait_for(ANNOUNCED)
    yield server
    if server.is_running:
        server.end(signal.SIGINT, signal.SIGINT)


@pytest.fixture(scope="module")
def address(serve):
    """Host and port of the gateway."""
    return re.search(r"OpenAI +http://(\S+)/v1", serve.output)[1]


@pytest.mark.parametrize(("language", "source"), BLOCKS)
def test_an_example_runs(address, language, source):
    source = source.replace("localhost:9000", address)
    command = {"python": [sys.executable, "-c"], "sh": ["sh", "-e", "-c"]}[language]
    scripts = Path(sys.executable).parent
    environ = os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([*command, source], env=environ, capture_output=True, text=True,
                          timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert "error" not in done.stdout


def test_there_are_examples():
    assert [language for language, _ in BLOCKS] == ["python", "sh", "sh", "python"]


def test_it_ends_with_the_server(serve, address):
    assert get(f"http://{address}/health/ready")[0] == 200
    run_dir = serve.run_dir()
    assert serve.end(signal.SIGINT) == 0
    assert_nothing_is_left(run_dir)
    with pytest.raises(OSError, match="refused"):
        get(f"http://{address}/health/live")
