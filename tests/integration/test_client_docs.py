"""Every example of docs/client.md runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[2] / "docs" / "client.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(python|sh)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(("language", "source"), BLOCKS)
def test_an_example_runs(demo_server, language, source):
    source = source.replace("localhost:8001", demo_server.grpc_url)
    command = {"python": [sys.executable, "-c"], "sh": ["sh", "-e", "-c"]}[language]
    scripts = Path(sys.executable).parent
    environ = os.environ | {"TRITONLM_URL": demo_server.grpc_url,
                            "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([*command, source], env=environ, capture_output=True, text=True,
                          timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_there_are_examples():
    assert [language for language, _ in BLOCKS].count("python") == 7
