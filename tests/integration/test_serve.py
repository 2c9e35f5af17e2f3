"""`tritonlm serve` as a process: what it says, how it ends, and that it leaves nothing."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import urllib.request
from pathlib import Path

import pytest
from tests.serving import ANNOUNCED, Serve, assert_nothing_is_left

from tritonlm.config import DEMO_CHECKPOINT
from tritonlm.errors import StartFailure
from tritonlm.server import preflight, processes, runtime

pytestmark = pytest.mark.timeout(300)  # each test starts a server, or two
PROMPT = {"text_input": "ROMEO:", "temperature": 0}


@pytest.fixture
def serve():
    """Start servers that are gone after the test, with what they may have left."""
    started = []

    def start(*options: str) -> Serve:
        started.append(Serve(*options))
        return started[-1]

    yield start
    for server in started:
        if server.is_running:
            server.end(signal.SIGINT, signal.SIGINT)


def ask(url: str, **options) -> dict:
    request = urllib.request.Request(f"{url}/v2/models/generate/generate",
                                     json.dumps(PROMPT | options).encode())
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_what_it_announces_works_and_ctrl_c_ends_it_all(serve, monkeypatch):
    monkeypatch.setenv("TRITONLM_DEFAULT_MAX_TOKENS", "3")
    server = serve()
    server.wait_for(ANNOUNCED)
    assert "\ntritonlm: KV cache of " in server.output, "what an engine says is shown"
    commands = re.search(r"Try it.*:\n((?:  .+\n)+)", server.output)[1].splitlines()
    assert len(commands) == 3
    for command in commands:
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False,
                              timeout=60)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip(), command
    assert ask(server.http_url)["num_output_tokens"] == 3, "the setting has not reached the model"
    assert "TRITONLM_DEFAULT_MAX_TOKENS" not in server.tritonserver().environ()

    run_dir = server.run_dir()
    assert len(processes.find(run_dir)) > 4  # tritonserver, its models' processes, the engine
    assert server.end(signal.SIGINT) == 0
    assert server.output.endswith("tritonlm: stopping\ntritonlm: stopped\n")
    assert "Traceback" not in server.output
    assert_nothing_is_left(run_dir)


def test_ctrl_c_ends_the_gateway_before_its_server(serve):
    server = serve("--gateway-port", "0", "--log-format", "json")
    server.wait_for('"message": "ready"')
    run_dir = server.run_dir()
    assert server.end(signal.SIGINT) == 0
    lines = [json.loads(line) for line in server.output.splitlines()]
    assert [line["message"] for line in lines[-2:]] == ["stopping", "stopped"]
    assert {"serve", "engine 0"} <= {line["process"] for line in lines}
    assert_nothing_is_left(run_dir)


def test_a_long_request_does_not_hold_up_the_end(serve):
    server = serve("--exit-timeout-s", "1")
    server.wait_for(ANNOUNCED)
    body = PROMPT | {"max_tokens": 900, "ignore_eos": True, "stream": True}
    with subprocess.Popen(["curl", "-sN", "--max-time", "60",
                           f"{server.http_url}/v2/models/generate/generate_stream",
                           "-d", json.dumps(body)], stdout=subprocess.PIPE) as client:
        client.stdout.readline()
        run_dir = server.run_dir()
        assert server.end(signal.SIGTERM) == 0
    assert_nothing_is_left(run_dir)


def test_ctrl_c_while_loading_leaves_nothing(serve):
    server = serve()
    run_dir = server.run_dir()
    assert server.end(signal.SIGINT) == 0
    assert server.output.endswith("tritonlm: stopped\n")
    assert_nothing_is_left(run_dir)


def test_a_killed_launcher_leaves_nothing(serve):
    server = serve()
    run_dir = server.run_dir()
    server.wait_until(lambda: len(processes.find(run_dir)) >= 3)  # it is starting its models
    assert server.end(signal.SIGKILL) == -signal.SIGKILL
    assert_nothing_is_left(run_dir)


def test_the_end_of_tritonserver_is_told_with_the_log(serve):
    server = serve()
    run_dir, tritonserver = server.run_dir(), server.tritonserver()
    server.wait_until(lambda: len(processes.find(run_dir)) >= 3)
    tritonserver.kill()
    assert server.end() == 1
    told = re.search(r"^tritonlm: tritonserver ended with signal SIGKILL \(log: (.+)\)$",
                     server.output, re.MULTILINE)
    assert "loading: " in Path(told[1]).read_text()
    assert_nothing_is_left(run_dir)


def test_a_tritonserver_that_crashes_at_its_start_is_started_again(serve):
    server = serve()
    run_dir, tritonserver = server.run_dir(), server.tritonserver()
    server.wait_until(lambda: len(processes.find(run_dir)) >= 3)
    tritonserver.send_signal(signal.SIGABRT)
    server.wait_for(ANNOUNCED)
    assert re.search(r"^tritonlm: tritonserver ended with signal SIGABRT \(log: .+\); starting it "
                     r"again in 1 s$", server.output, re.MULTILINE)
    assert_nothing_is_left(run_dir)


def test_a_server_that_lost_a_models_process_is_replaced(serve):
    server = serve()
    server.wait_for(ANNOUNCED)
    run_dir = server.run_dir()
    before = ask(server.http_url)
    server.stub("detokenize").kill()
    server.wait_for(ANNOUNCED, 2)
    assert re.search(r"^tritonlm: a process of model detokenize has ended \(log: .+\); starting it "
                     r"again in 1 s$", server.output, re.MULTILINE)
    assert_nothing_is_left(run_dir)
    assert ask(server.http_url) == before


def test_a_failed_load_is_told_in_one_line_with_the_log(serve, tmp_path):
    log = tmp_path / "log"
    server = serve("--max-model-len", "1000000", "--log-file", str(log))
    run_dir = server.run_dir()
    assert server.end() == 1
    *_, last = server.output.splitlines()
    assert re.fullmatch(r"tritonlm: model (generate|complete) failed to load: max_model_len: "
                        rf"1000000 is not allowed; .+ \(log: {log}\)", last)
    assert re.search("failed to load '(generate|complete)'", log.read_text())
    assert "Traceback" not in server.output
    assert_nothing_is_left(run_dir)


def test_a_broken_checkpoint_is_told_before_anything_starts(serve, tmp_path):
    for file in DEMO_CHECKPOINT.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text("{")
    server = serve("--model", str(tmp_path))
    assert server.end() == 1
    assert re.fullmatch(rf"tritonlm: model: '{tmp_path}' is not allowed; its config.json cannot be "
                        r"read: .+\n", server.output)


def test_a_stub_without_its_libpython_is_told_the_package():
    found = runtime.find()
    other = runtime.Runtime(found.binary, found.backends.with_name("3.8"), found.caches,
                            found.libraries, found.version)
    with pytest.raises(StartFailure, match=r"needs libpython3\.8\.so\.1\.0: apt-get install "
                                           r"libpython3\.8 "):
        preflight.check_libraries(other)
