"""The commands against a real server."""

import json
import signal
import subprocess
import sys

from tests.drills.waiting import LIMIT_S, found
from tests.integration.gateway import direct_text
from typer.testing import CliRunner

from tritonlm.cli import app

PROMPT = "ROMEO:\nO, "


def command(url, *args):
    return [sys.executable, "-c", "from tritonlm.cli import app; app()", *args, "--url", url]


def test_the_command_prints_the_answer(demo_server, url):
    args = ["generate", PROMPT, "--max-tokens", "12", "--temperature", "0"]
    done = subprocess.run(command(url, *args), capture_output=True, check=True, timeout=60)
    assert done.stdout.decode() == direct_text(demo_server, PROMPT, max_tokens=12, temperature=0)


def test_ctrl_c_ends_the_command(url):
    with subprocess.Popen(command(url, "generate", PROMPT, "--max-tokens", "800"),
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT_S) == 130
        assert process.stderr.read() == b""


def test_a_prompt_that_is_too_long_for_a_chat_is_explained(url):
    done = subprocess.run(command(url, "chat"), input=b"word " * 3000 + b"\n", capture_output=True,
                          check=True, timeout=60)
    assert b"/reset" in done.stderr
    assert b"prompt: " in done.stderr


def test_health_is_good(url):
    done = subprocess.run(command(url, "health", "--json"), capture_output=True, check=True,
                          timeout=60)
    assert json.loads(done.stdout)["is_healthy"]


def test_top_shows_server_and_gateway(demo_server, demo_gateway):
    server, gateway = (url.split("//")[1].removesuffix("/metrics")
                       for url in (demo_server.metrics_url, demo_gateway))

    def shown():
        result = CliRunner().invoke(app, ["top", server, gateway, "--once", "--interval-s", "0.5"],
                                    env={"COLUMNS": "200"})
        assert result.exit_code == 0, result.output
        return result.output

    # Gauges of requests that are just over may still be on their way.
    output = found(shown, lambda output: "no alert" in output)
    assert f"generate 0 ({server})" in output
    assert "requests in flight" in output
