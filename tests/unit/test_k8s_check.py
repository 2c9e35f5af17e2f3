"""`make k8s-check` finds what is amiss: manifests are broken here, in one place each."""

from __future__ import annotations

import copy
import json
import subprocess

import pytest
import yaml
from k8s import render
from k8s.references import find_dangling
from tests import manifests

pytestmark = pytest.mark.skipif(render.command() is None,
                                reason="needs kustomize or kubectl: make k8s-check fetches one")
PYTHON, CHECKOV = (render.TOOLS / "bin" / name for name in ("python", "checkov"))
needs_tools = pytest.mark.skipif(not PYTHON.exists(), reason="make k8s-check installs them")
PROBLEMS = """
import json, sys
from k8s.check import find_problems
print(json.dumps([list(find_problems(each)) for each in json.load(sys.stdin)]))
"""


def broken(kind, name, change, overlay="production"):
    """The objects of an overlay with one changed; the changed one last."""
    objects = copy.deepcopy(manifests.objects(overlay))
    [one] = [each for each in objects if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    change(one["spec"])
    return [*(each for each in objects if each is not one), one]


def container(spec):
    return spec["template"]["spec"]["containers"][0]


@pytest.mark.parametrize(("kind", "name", "change", "problem"), [
    ("Deployment", "triton", lambda spec: container(spec)["envFrom"][0]["configMapRef"].update(
        name="gone"), "there is no ConfigMap gone"),
    ("Deployment", "triton", lambda spec: spec["template"]["spec"].update(
        serviceAccountName="gone"), "there is no ServiceAccount gone"),
    ("Deployment", "gateway", lambda spec: container(spec)["readinessProbe"]["httpGet"].update(
        port="gone"), "a probe asks at gone"),
    ("Job", "fetch-weights", lambda spec: spec["template"]["spec"]["volumes"][0][
        "persistentVolumeClaim"].update(claimName="gone"),
     "there is no PersistentVolumeClaim gone"),
    ("Deployment", "triton", lambda spec: spec["selector"]["matchLabels"].update(
        {"app": "gone"}), "no pod is such"),
    ("Service", "triton", lambda spec: spec["selector"].update({"app": "gone"}), "no pod is such"),
    ("Service", "triton", lambda spec: spec["ports"][0].update(targetPort="gone"),
     "has the port gone"),
    ("PodDisruptionBudget", "triton", lambda spec: spec["selector"]["matchLabels"].update(
        {"app": "gone"}), "no pod is such"),
    ("NetworkPolicy", "gateway", lambda spec: spec["egress"][0]["ports"][0].update(port=8009),
     "has the port 8009"),
    ("NetworkPolicy", "triton", lambda spec: spec["ingress"][0]["from"][0]["podSelector"][
        "matchLabels"].update({"app": "gone"}), "no pod is such"),
    ("HorizontalPodAutoscaler", "triton", lambda spec: spec["scaleTargetRef"].update(name="gone"),
     "there is no Deployment gone"),
    ("ServiceMonitor", "gateway", lambda spec: spec["endpoints"][0].update(port="gone"),
     "has the port gone"),
    ("ServiceMonitor", "gateway", lambda spec: spec["selector"]["matchLabels"].update(
        {"app": "gone"}), "no pod is such"),
    ("Ingress", "gateway", lambda spec: spec["rules"][0]["http"]["paths"][0]["backend"][
        "service"].update(name="gone"), "there is no Service gone"),
])
def test_what_is_named_and_is_not_there_is_found(kind, name, change, problem):
    found = list(find_dangling(broken(kind, name, change)))
    assert found
    assert all(problem in each for each in found), found


@pytest.mark.parametrize("overlay", manifests.OVERLAYS)
def test_nothing_is_found_in_what_is_applied(overlay):
    if overlay != "leader-worker":  # whose pods `k8s.check` takes out of their templates
        assert list(find_dangling(manifests.objects(overlay))) == []


@needs_tools
def test_fields_that_do_not_exist_and_values_of_another_type_are_found():
    defects = [
        ("Deployment", "triton", lambda spec: spec.update(replica=2)),
        ("Deployment", "triton", lambda spec: container(spec)["readinessProbe"].update(
            periodSeconds="15")),
        ("Service", "triton", lambda spec: spec["ports"][0].pop("port")),
        ("HorizontalPodAutoscaler", "triton", lambda spec: spec.update(maxReplica=3)),
        ("PrometheusRule", "tritonlm", lambda spec: spec["groups"][0]["rules"][0].update(
            fore="5m")),
        ("ServiceMonitor", "triton", lambda spec: spec["endpoints"][0].update(interval=15)),
        ("NetworkPolicy", "triton", lambda spec: spec.update(policyTypes="Ingress")),
        ("ScaledObject", "triton", lambda spec: spec.update(minReplicas=0), "scale-to-zero"),
        ("InferencePool", "triton", lambda spec: spec.pop("targetPorts"), "inference-pool"),
        ("HTTPRoute", "gateway", lambda spec: spec["rules"][0]["matches"][0]["path"].update(
            type="Prefix"), "gateway-api"),
        ("LeaderWorkerSet", "triton", lambda spec: spec["leaderWorkerTemplate"].update(
            restartPolicy="Always"), "leader-worker"),
    ]
    given = [broken(*defect)[-1] for defect in defects]
    found = json.loads(subprocess.run(
        [PYTHON, "-c", PROBLEMS], input=json.dumps(given), cwd=render.K8S.parent, text=True,
        capture_output=True, check=True).stdout)
    assert len(found) == len(defects)
    assert all(found), found


@needs_tools
def test_a_container_that_may_do_too_much_is_found(tmp_path):
    one = broken("Deployment", "triton", lambda spec: container(spec)["securityContext"].update(
        privileged=True))[-1]
    (tmp_path / "it.yaml").write_text(yaml.safe_dump(one))
    done = subprocess.run([CHECKOV, "--config-file", render.K8S / "checkov.yaml", "-d", tmp_path],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "CKV_K8S_16" in done.stdout
