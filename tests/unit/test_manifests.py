"""What is applied to a cluster fits what is deployed: settings, images, times, GPUs, ports."""

from __future__ import annotations

import os
import re
from importlib.metadata import version

import pytest
import typer
import yaml
from k8s import render
from k8s.references import find_dangling
from tests import images, manifests
from tests.containers import IMAGES

from tritonlm.cli import app
from tritonlm.config import ModelConfig
from tritonlm.gateway.settings import GatewaySettings
from tritonlm.manager.limits import Limits
from tritonlm.server import reaper
from tritonlm.server.command import SET_BY_LAUNCHER
from tritonlm.server.flags import settings_of
from tritonlm.server.gateway_process import STOP_TIMEOUT_S, GatewayStart
from tritonlm.server.manager_thread import ManagerStart
from tritonlm.server.settings import ServerSettings
from tritonlm.server.tritonserver import STOP_MARGIN_S

pytestmark = pytest.mark.skipif(render.command() is None,
                                reason="needs kustomize or kubectl: make k8s-check fetches one")
SETTINGS = {"serve": [(ServerSettings, ()), (ModelConfig, SET_BY_LAUNCHER), (GatewayStart, ())],
            "repo serve": [(Limits, ()), (ManagerStart, ()), (GatewayStart, ())],
            "gateway": [(GatewaySettings, ())]}
OF_PROBES = {"TRITONLM_URL"}


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
    front_ends = int(found["triton/triton"].environ.get("TRITONLM_FRONT_ENDS", 2))
    margins_s = (ServerSettings(exit_timeout_s=0, front_ends=front_ends).triton_exit_timeout_s
                 + STOP_MARGIN_S + reaper.GRACE_S)
    for name, setting, margin_s in (
        ("triton/triton", "TRITONLM_EXIT_TIMEOUT_S", margins_s),
        ("gateway/gateway", "TRITONLM_GATEWAY_DRAIN_TIMEOUT_S", STOP_TIMEOUT_S / 2),
    ):
        container = found[name]
        pause_s = container.spec["lifecycle"]["preStop"]["sleep"]["seconds"]
        needed_s = pause_s + float(container.environ[setting]) + margin_s
        assert container.pod["terminationGracePeriodSeconds"] >= needed_s


@pytest.mark.parametrize("overlay", manifests.OVERLAYS)
def test_a_large_model_has_as_long_to_come_up_again_as_at_first(overlay):
    """Who restarts the container meanwhile has all of it loaded once more."""
    container = manifests.containers(overlay)["triton/triton"]
    first_s, again_s = (container.probes[name]["periodSeconds"]
                        * container.probes[name]["failureThreshold"]
                        for name in ("startupProbe", "livenessProbe"))
    is_large = "TRITONLM_TENSOR_PARALLEL" in container.environ
    assert again_s >= (first_s if is_large else 300)


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


def test_a_follower_may_take_as_long_to_end_as_its_leader():
    found = manifests.containers("leader-worker")
    leader, follower = found["triton/triton"], found["triton/follower"]
    assert (follower.pod["terminationGracePeriodSeconds"]
            >= leader.pod["terminationGracePeriodSeconds"])
