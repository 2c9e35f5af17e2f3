"""What images and manifests start is started here, with the commands that they have.

There is no container engine: the server's image is a venv made by its Dockerfile's own steps, and
tritonserver is laid out as in NGC's images. Not shown are base images and users.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from k8s import render
from model_hub import NAME, model_hub
from tests import images, manifests
from tests.certificates import needs_openssl, write_certificate
from tests.containers import can_confine, gateway_before, started
from tests.drills.waiting import found
from tests.exported_metrics import exported_names, names_in
from tests.integration.gateway import get, post

from tritonlm.commands.residents import statuses
from tritonlm.config import DEMO_CHECKPOINT
from tritonlm.gateway.settings import GatewaySettings
from tritonlm.logs import JSON_START, PREFIX
from tritonlm.server.manager_thread import ManagerStart
from tritonlm.server.settings import ServerSettings

pytestmark = [pytest.mark.timeout(300),  # an environment is made, and servers start in it
              pytest.mark.skipif(render.command() is None,
                                 reason="needs kustomize or kubectl: make k8s-check fetches one")]
MODEL_LIST = "/etc/tritonlm/models/models.txt"
MANAGER = f"localhost:{ManagerStart.manager_port}"
FREE_PORTS = {f"TRITONLM_{kind}_PORT": "0" for kind in ("HTTP", "GRPC", "METRICS")}


def demo_model(tritonserver, home):
    """The environment of a server with the demo model, on free ports."""
    return {"TRITONLM_MODEL": str(DEMO_CHECKPOINT), "TRITONLM_TRITONSERVER": str(tritonserver),
            "TRITONLM_KV_CACHE_GIB": "0.1", "TRITONLM_FRONT_ENDS": "1", "HOME": str(home),
            **FREE_PORTS}


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    """The environment of the server's image."""
    folder = tmp_path_factory.mktemp("image") / "tritonlm"
    images.install(folder)
    return folder


@pytest.fixture(scope="module")
def tritonserver(tmp_path_factory):
    return images.tritonserver_as_in_images(tmp_path_factory.mktemp("opt"))


@pytest.fixture(scope="module")
def triton(prefix, tritonserver, tmp_path_factory):
    """A server as in overlay dev, with the demo model and on free ports, and its addresses."""
    container = manifests.containers("dev")["triton/triton"]
    here = demo_model(tritonserver, tmp_path_factory.mktemp("home"))
    with started(container, prefix, **here) as (process, environ):
        addresses = json.loads(process.wait_for('"message": "ready"'))
        yield process, environ | {"TRITONLM_URL": addresses["grpc"]}, addresses


@pytest.fixture(scope="module")
def gateway(prefix, triton):
    """A gateway as in overlay dev before that server."""
    container = manifests.containers("dev")["gateway/gateway"]
    assert container.environ["TRITONLM_GATEWAY_SERVERS"] == "dns:triton:8001:8002"
    with gateway_before(container, prefix, triton[2]) as url:
        yield url


@pytest.fixture(scope="module")
def many(prefix, tritonserver, tmp_path_factory):
    """A server as in overlay multi-model; its list had one model when its pod first began."""
    found, folder = manifests.containers("multi-model"), tmp_path_factory.mktemp("volume")
    here = {"TRITONLM_REPOSITORY": str(folder / "repository"), "HOME": str(folder),
            "TRITONLM_TRITONSERVER": str(tritonserver), "TRITONLM_PRELOAD": "",
            "TRITONLM_MANAGER_PORT": "0", **FREE_PORTS}
    adding = found["triton/fetch"].with_word(MODEL_LIST, str(folder / "models.txt"))
    for name, told in (("chat", ["added chat"]), ("poet", ["chat, version 1, is", "added poet"])):
        with (folder / "models.txt").open("a") as models:
            models.write(f"{name} --from {DEMO_CHECKPOINT} --kv-cache-gib 0.1\n")
        with started(adding, prefix, **here) as (process, _):
            assert process.wait(100) == 0, process.lines
        assert all(map(str.startswith, process.lines, told)), process.lines
        assert len(process.lines) == len(told), process.lines
    with started(found["triton/triton"], prefix, **here) as (process, environ):
        addresses = json.loads(process.wait_for('"message": "ready"'))
        yield process, environ | {"TRITONLM_URL": addresses["grpc"]}, addresses


@pytest.fixture(scope="module")
def group(prefix, tritonserver, tmp_path_factory):
    """Leader and follower as in overlay leader-worker, two parts of the demo model on the CPU."""
    found, home = manifests.containers("leader-worker"), str(tmp_path_factory.mktemp("home"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    here = demo_model(tritonserver, home) | {
        "TRITONLM_DEVICE": "cpu", "TRITONLM_DTYPE": "float32", "TRITONLM_TENSOR_PARALLEL": "2",
        "TRITONLM_TENSOR_PARALLEL_ADDRESS": address}
    with started(found["triton/fetch"], prefix, **here) as (process, _):
        assert process.wait(100) == 0, process.lines
    following = found["triton/follower"].with_word(
        found["triton/triton"].environ["TRITONLM_TENSOR_PARALLEL_ADDRESS"], address)
    with (started(found["triton/triton"], prefix, **here) as (leader, environ),
          started(following, prefix, HOME=home) as (follower, _)):
        addresses = json.loads(leader.wait_for('"message": "ready"'))
        yield leader, follower, environ | {"TRITONLM_URL": addresses["grpc"]}


def test_a_machine_follows_another_until_that_one_ends(group):
    leader, follower, environ = group
    [probe] = probe_commands("leader-worker") & {("tritonlm", "health", "--timeout-s", "10")}
    done = subprocess.run(probe, env=environ, capture_output=True, text=True, check=False)
    assert "one token in" in done.stdout, done.stdout + done.stderr
    container = manifests.containers("leader-worker")["triton/follower"]
    [*shell, wait] = container.spec["lifecycle"]["preStop"]["exec"]["command"]
    assert " 1;" in wait
    with subprocess.Popen([*shell, wait.replace(" 1;", f" {follower.pid};", 1)],
                          stderr=subprocess.DEVNULL) as before_stop:
        leader.terminate()
        assert leader.wait(60) == 0
        assert follower.wait(60) == 1
        assert before_stop.wait(60) == 0
    assert not [line for line in follower.lines if line.startswith(PREFIX)]
    told = [json.loads(line) for line in follower.lines if line.startswith(JSON_START)]
    assert "follow" in {line["process"] for line in told}


def test_weights_are_fetched_once_and_servers_wait_for_them_without_a_hub(prefix, tmp_path):
    found = manifests.containers("production")
    job, wait = found["fetch-weights/fetch"], found["triton/fetch"]
    assert wait.environ["HF_HUB_OFFLINE"] == "1"
    with model_hub(DEMO_CHECKPOINT) as (address, fetched):
        here = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path), "HOME": str(tmp_path),
                "TRITONLM_MODEL": NAME, "TRITONLM_REVISION": "main"}
        ends = []
        for container in (wait, job, wait):
            with started(container, prefix, **here) as (process, _):
                ends.append(process.wait(100))
        assert ends == [1, 0, 0]
        assert fetched.count("model.safetensors") == 1


@pytest.mark.skipif(not can_confine(), reason="needs unshare, and to be let")
def test_the_server_has_a_file_system_that_it_cannot_write_to(triton):
    """All tests here start containers so; what writes elsewhere than to scratch fails."""
    process, _, _ = triton
    mounts = Path(f"/proc/{process.pid}/mounts").read_text().splitlines()
    [options] = [line.split()[3] for line in mounts if line.split()[1] == "/"]
    assert "ro" in options.split(",")


def test_probes_of_the_server_ask_for_a_token_and_get_it(triton):
    _, environ, _ = triton
    commands = {tuple(images.stages()["server"].health)} | {
        command for overlay in manifests.OVERLAYS if overlay != "multi-model"
        for command in probe_commands(overlay)}
    for command in commands:
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (command, done.stdout + done.stderr)
        assert "one token in" in done.stdout
        absent = subprocess.run(command, env=environ | {"TRITONLM_URL": "localhost:9"},
                                capture_output=True, check=False)
        assert absent.returncode == 1, command


def probe_commands(overlay):
    probes = manifests.containers(overlay)["triton/triton"].probes
    return {tuple(probe["exec"]["command"]) for probe in probes.values()}


def test_probes_of_many_models_ask_the_manager_and_what_is_pinned(many):
    _, environ, addresses = many
    for command in probe_commands("multi-model"):
        here = [word.replace(MANAGER, addresses["manager"]) for word in command]
        assert here != list(command)
        done = subprocess.run(here, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (here, done.stdout + done.stderr)
        assert "answer of chat: one token in" in done.stdout
    of_image = images.stages()["server"].health
    assert subprocess.run(of_image, env=environ, capture_output=True, check=False).returncode == 0
    absent = [word.replace(MANAGER, "localhost:9") for word in command]
    assert subprocess.run(absent, env=environ, capture_output=True, check=False).returncode == 1


def test_a_gateway_asks_the_manager_of_many_models_before_it_sends_a_request(many, prefix):
    process, _, addresses = many
    container = manifests.containers("multi-model")["gateway/gateway"]
    assert container.environ["TRITONLM_GATEWAY_SERVERS"] == "dns:triton:8001:8002:8003"
    [chat, poet] = statuses(addresses["manager"], 10)
    assert (chat.name, chat.state, chat.is_pinned) == ("chat", "ready", True)
    assert (poet.name, poet.state) == ("poet", "unloaded")
    with gateway_before(container, prefix, addresses) as url:
        for model in ("chat", "poet"):
            code, told = post(f"{url}/v1/completions", {"model": model, "prompt": "Hi",
                                                        "max_tokens": 2})
            assert code == 200, told
    assert statuses(addresses["manager"], 10)[0].num_requests == chat.num_requests + 1
    line = json.loads(process.wait_for("waits for model poet"))
    assert (line["process"], line["level"]) == ("manager", "info")
    assert line["request_id"]
    assert all(map(json.loads, process.lines))


def test_probes_of_the_gateway_answer(gateway):
    container = manifests.containers("dev")["gateway/gateway"]
    for probe in container.probes.values():
        assert container.port(probe["httpGet"]["port"]) == GatewaySettings.port
        assert get(gateway + probe["httpGet"]["path"])[0] == 200
    program, *arguments = images.stages()["gateway"].health
    assert program == "python"
    here = [text.replace("http://localhost:9000", gateway) for text in arguments]
    assert here != arguments
    assert subprocess.run([sys.executable, *here], check=False).returncode == 0


def test_ports_are_those_that_services_and_pools_name(triton):
    ports = manifests.containers("dev")["triton/triton"].spec["ports"]
    assert {port["name"]: port["containerPort"] for port in ports} == {
        "http": ServerSettings.http_port, "grpc": ServerSettings.grpc_port,
        "metrics": ServerSettings.metrics_port}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """The folder of a secret: a certificate that is its own authority, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, _ = write_certificate(folder)
    shutil.copy(certificate, folder / "ca.crt")
    return str(folder)


@needs_openssl
def test_gateway_and_server_show_each_other_certificates_and_a_key(
    prefix, tritonserver, certificates, tmp_path
):
    found = {name: here(each, "/etc/tritonlm/tls", certificates)
             for name, each in manifests.containers("grpc-tls").items()}
    changed = demo_model(tritonserver, tmp_path)
    with started(found["triton/triton"], prefix, **changed) as (process, environ):
        addresses = json.loads(process.wait_for('"message": "ready"'))
        for probe in found["triton/triton"].probes.values():
            command = probe["exec"]["command"]
            for url, code in ((addresses["http"], 0), (addresses["grpc"], 1)):
                done = subprocess.run(command, env=environ | {"TRITONLM_URL": url}, check=False,
                                      capture_output=True, text=True)
                assert done.returncode == code, done.stdout + done.stderr
        with gateway_before(found["gateway/gateway"], prefix, addresses) as url:
            code, told = post(f"{url}/v1/completions", {"model": "generate", "prompt": "Hi",
                                                        "max_tokens": 2})
        assert code == 200, told
        keyless = here(found["gateway/gateway"], "triton-grpc-protocol-key=", "other=")
        with gateway_before(keyless, prefix, addresses) as url:
            assert get(f"{url}/health/ready")[0] == 503


def here(container, text, other):
    """The container with `other` in its environment where `text` is."""
    return replace(container, environ={key: value.replace(text, other)
                                       for key, value in container.environ.items()})


def test_metrics_that_decide_on_the_number_of_servers_are_exported(triton, gateway):
    asked = names_in(manifests.scaling_metrics())
    assert len(asked) == 4
    assert asked <= exported_names()
    assert post(f"{gateway}/v1/completions", {"model": "generate", "prompt": "Hi",
                                              "max_tokens": 2})[0] == 200
    urls = (triton[2]["metrics"], f"{gateway}/metrics")
    found(lambda: "".join(get(url)[1].decode() for url in urls),
          lambda pages: all(f"\n{name}{{" in pages for name in asked))


def test_a_stream_goes_on_to_its_end_when_its_pod_is_deleted(triton, gateway):
    """The last test here: preStop only waits, and then the kubelet sends SIGTERM."""
    process, _, _ = triton
    body = {"model": "generate", "prompt": "ROMEO:", "max_tokens": 300, "stream": True,
            "ignore_eos": True, "seed": 1}
    request = urllib.request.Request(f"{gateway}/v1/completions", json.dumps(body).encode(),
                                     {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        first = answer.readline()
        process.terminate()
        events = [first, *answer]
    said = [json.loads(line[6:]) for line in events if line.startswith(b"data: {")]
    assert said[-1]["choices"][0]["finish_reason"] == "length"
    assert events[-2] == b"data: [DONE]\n"
    # Well within the 30 s that requests would have, though the gateway keeps streams.
    assert process.wait(28) == 0
