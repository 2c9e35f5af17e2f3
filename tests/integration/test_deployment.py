"""What images and manifests start is started here, with the commands that they have.

There is no container engine: the server's image is a venv made by its Dockerfile's own steps, and
tritonserver is laid out as in NGC's images. Not shown are base images, users and file systems.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.metadata import version

import pytest
import typer
import yaml
from k8s import render
from k8s.references import find_dangling
from model_hub import NAME, model_hub
from tests import images, manifests
from tests.containers import IMAGES, gateway_before, started
from tests.exported_metrics import exported_names, names_in
from tests.integration.gateway import get, post

from tritonlm.cli import app
from tritonlm.commands.residents import statuses
from tritonlm.config import DEMO_CHECKPOINT, ModelConfig
from tritonlm.gateway.settings import GatewaySettings
from tritonlm.logs import JSON_START, PREFIX
from tritonlm.manager.limits import Limits
from tritonlm.server import reaper
from tritonlm.server.command import SET_BY_LAUNCHER
from tritonlm.server.flags import settings_of
from tritonlm.server.gateway_process import STOP_TIMEOUT_S, GatewayStart
from tritonlm.server.launcher import EXIT_MARGIN_S
from tritonlm.server.manager_thread import ManagerStart
from tritonlm.server.settings import ServerSettings
from tritonlm.server.tritonserver import STOP_MARGIN_S

pytestmark = [pytest.mark.timeout(300),  # an environment is made, and servers start in it
              pytest.mark.skipif(render.command() is None,
                                 reason="needs kustomize or kubectl: make k8s-check fetches one")]
SETTINGS = {"serve": [(ServerSettings, ()), (ModelConfig, SET_BY_LAUNCHER), (GatewayStart, ())],
            "repo serve": [(Limits, ()), (ManagerStart, ()), (GatewayStart, ())],
            "gateway": [(GatewaySettings, ())]}
OF_PROBES = {"TRITONLM_URL"}
MODEL_LIST = "/etc/tritonlm/models/models.txt"
MANAGER = f"localhost:{ManagerStart.manager_port}"


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
    here = {"TRITONLM_MODEL": str(DEMO_CHECKPOINT), "TRITONLM_TRITONSERVER": str(tritonserver),
            "TRITONLM_KV_CACHE_GIB": "0.1", "TRITONLM_FRONT_ENDS": "1",
            "HOME": str(tmp_path_factory.mktemp("home")),
            **{f"TRITONLM_{kind}_PORT": "0" for kind in ("HTTP", "GRPC", "METRICS")}}
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
            **{f"TRITONLM_{kind}_PORT": "0" for kind in ("HTTP", "GRPC", "METRICS", "MANAGER")}}
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


@pytest.mark.parametrize("overlay", [*manifests.OVERLAYS, *manifests.ALTERNATIVES])
def test_each_variable_of_a_container_is_an_option_with_an_allowed_value(overlay, monkeypatch):
    for name in [name for name in os.environ if name.startswith("TRITONLM_")]:
        monkeypatch.delenv(name)
    for container in manifests.containers(overlay).values():
        if "command" in container.spec:  # another program, which is started below
            continue
        stage = images.stages()[IMAGES[container.image]]
        name, command, options = command_of(container.spec["args"])
        settings = {key: value for key, value in (stage.environ | container.environ).items()
                    if key.startswith("TRITONLM_")}
        with monkeypatch.context() as patch:
            for key, value in settings.items():
                patch.setenv(key, value)
            given = command.make_context(name, options)
            known = {
                parameter.envvar or f"{given.auto_envvar_prefix}_{parameter.name.upper()}":
                given.params[parameter.name] for parameter in command.params}
            if name in SETTINGS:
                assert not set(settings) - set(known) - OF_PROBES, container.name
                for kind, hidden in SETTINGS[name]:
                    settings_of(kind, given.params, hidden)
            else:  # it shares what is set for servers, and needs little of it
                shared = known.keys() & settings.keys()
                assert shared
                assert {key: known[key] for key in shared} == {key: settings[key] for key in shared}


def command_of(words):
    """The name of a command, perhaps one in a group, the command, and its options."""
    command, options = typer.main.get_command(app), list(words)
    while hasattr(command, "commands"):
        command = command.commands[options.pop(0)]
    return " ".join(words[: len(words) - len(options)]), command, options


def images_of(overlay):
    return {each.spec["image"] for each in manifests.containers(overlay).values()}


@pytest.mark.parametrize("overlay", manifests.OVERLAYS)
def test_images_are_those_of_this_version(overlay):
    assert images_of(overlay) == {f"{name}:{version('tritonlm')}" for name in IMAGES}


def test_an_overlay_of_your_own_is_as_the_document_has_it(tmp_path, monkeypatch):
    [text] = re.findall(r"```yaml\n(.*?)```", (images.ROOT / "docs" / "operations.md").read_text(),
                        re.DOTALL)
    folder = tmp_path / "deploy"
    folder.mkdir()
    (folder / "kustomization.yaml").write_text(
        text.replace("../k8s", os.path.relpath(render.K8S, folder)))
    found = render.render(folder)
    monkeypatch.setattr(manifests, "objects", lambda _: list(yaml.safe_load_all(found)))
    assert images_of("deploy") == {f"ghcr.io/you/{name}:{version('tritonlm')}" for name in IMAGES}
    environ = manifests.containers("deploy")["fetch-weights/fetch"].environ
    assert environ["TRITONLM_MODEL"] == "Qwen/Qwen2.5-14B-Instruct"
    assert "llm.you.com" in found
    assert "llm.example" not in found
    assert list(find_dangling(manifests.objects("deploy"))) == []


@pytest.mark.parametrize("overlay", manifests.OVERLAYS)
def test_a_pod_may_take_as_long_to_end_as_its_longest_stream(overlay):
    found = manifests.containers(overlay)
    margins_s = EXIT_MARGIN_S + STOP_MARGIN_S + reaper.GRACE_S
    for name, setting, margin_s in (
        ("triton/triton", "TRITONLM_EXIT_TIMEOUT_S", margins_s),
        ("gateway/gateway", "TRITONLM_GATEWAY_DRAIN_TIMEOUT_S", STOP_TIMEOUT_S / 2),
    ):
        container = found[name]
        pause_s = container.spec["lifecycle"]["preStop"]["sleep"]["seconds"]
        needed_s = pause_s + float(container.environ[setting]) + margin_s
        assert container.pod["terminationGracePeriodSeconds"] >= needed_s


@pytest.mark.parametrize("overlay", manifests.OVERLAYS)
def test_the_serving_container_has_shared_memory_of_its_own(overlay):
    container = manifests.containers(overlay)["triton/triton"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container.spec["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in container.pod["volumes"]}
    assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"


@pytest.mark.parametrize("overlay", manifests.OVERLAYS)
def test_a_machine_has_a_gpu_for_each_process_of_its_engines(overlay):
    found = manifests.containers(overlay)
    environ = found["triton/triton"].environ
    copies, parts, machines = (int(environ.get(f"TRITONLM_{name}", "1")) for name in (
        "NUM_ENGINES", "TENSOR_PARALLEL", "TENSOR_PARALLEL_NODES"))
    needed = 0 if environ.get("TRITONLM_DEVICE") == "cpu" else copies * parts // machines
    serving = [found[name] for name in ("triton/triton", "triton/follower") if name in found]
    assert len(serving) == min(machines, 2)
    for container in serving:
        assert container.spec["resources"]["limits"].get("nvidia.com/gpu", 0) == needed


@pytest.fixture(scope="module")
def group(prefix, tritonserver, tmp_path_factory):
    """Leader and follower as in overlay leader-worker, two parts of the demo model on the CPU."""
    found, home = manifests.containers("leader-worker"), str(tmp_path_factory.mktemp("home"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    here = {"TRITONLM_MODEL": str(DEMO_CHECKPOINT), "TRITONLM_TRITONSERVER": str(tritonserver),
            "TRITONLM_KV_CACHE_GIB": "0.1", "TRITONLM_FRONT_ENDS": "1", "HOME": home,
            "TRITONLM_DEVICE": "cpu", "TRITONLM_DTYPE": "float32", "TRITONLM_TENSOR_PARALLEL": "2",
            "TRITONLM_TENSOR_PARALLEL_ADDRESS": address,
            **{f"TRITONLM_{kind}_PORT": "0" for kind in ("HTTP", "GRPC", "METRICS")}}
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


def test_a_follower_may_take_as_long_to_end_as_its_leader():
    found = manifests.containers("leader-worker")
    leader, follower = found["triton/triton"], found["triton/follower"]
    assert (follower.pod["terminationGracePeriodSeconds"]
            >= leader.pod["terminationGracePeriodSeconds"])


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


def test_only_gateways_reach_the_manager():
    [policy] = [each for each in manifests.objects("multi-model")
                if (each["kind"], each["metadata"]["name"]) == ("NetworkPolicy", "triton")]
    rules = [rule for rule in policy["spec"]["ingress"]
             if {"port": ManagerStart.manager_port} in rule["ports"]]
    assert [rule["from"] for rule in rules] == [
        [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "gateway"}}}]]
    container = manifests.containers("multi-model")["triton/triton"]
    assert container.port("manager") == ManagerStart.manager_port


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


def test_metrics_that_decide_on_the_number_of_servers_are_exported(triton, gateway):
    asked = names_in(manifests.scaling_metrics())
    assert len(asked) == 4
    assert asked <= exported_names()
    assert post(f"{gateway}/v1/completions", {"model": "generate", "prompt": "Hi",
                                              "max_tokens": 2})[0] == 200
    urls = (triton[2]["metrics"], f"{gateway}/metrics")
    due_s = time.monotonic() + 60
    while missing := {name for name in asked
                      if f"\n{name}{{" not in "".join(get(url)[1].decode() for url in urls)}:
        assert time.monotonic() < due_s, missing
        time.sleep(0.1)


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
